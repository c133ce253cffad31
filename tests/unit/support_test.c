/* docs/SUPPORT.md has two rows for each family: what works, and what scales fold into; the latter ends with the name of
 * its GGUF files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/file.h"
#include "libstage/network/families/family.h"

static bool ends_with_gguf(const char *row, const struct qp_family *f)
{
    char end[64];
    size_t length = strcspn(row, "\n");
    snprintf(end, sizeof end, "| %s |", f->gguf ? f->gguf : "-");
    return length >= strlen(end) && strncmp(row + length - strlen(end), end, strlen(end)) == 0;
}

Test(support, each_family_has_its_rows)
{
    struct qp_error err;
    char *text;
    size_t size;
    cr_assert_eq(qp_read_file(SOURCE_DIR "/docs/SUPPORT.md", 1 << 20, &text, &size, &err), 0, "%s", err.message);
    for (const struct qp_family *const *f = qp_families(); *f; f++) {
        char row[128];
        const char *last = "";
        int rows = 0;
        snprintf(row, sizeof row, "\n| `%s` |", (*f)->name);
        for (const char *at = text; (at = strstr(at, row)); rows++)
            last = ++at;
        cr_expect_eq(rows, 2, "%s has %d rows: tests/interop/families.py --all --support docs/SUPPORT.md", (*f)->name,
                     rows);
        cr_expect(ends_with_gguf(last, *f), "%s: the row does not end with its name in GGUF", (*f)->name);
    }
    free(text);
}
