#include "tests/support/scratch.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/file.h"

static char folder[64];

void scratch_make(void)
{
    strcpy(folder, "/tmp/quantpipe-test-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

void scratch_drop(void)
{
    struct qp_error err;
    cr_assert_eq(qp_remove_tree(folder, &err), 0, "%s", err.message);
}

const char *scratch(const char *name)
{
    static char paths[8][256];
    static int step;
    char *path = paths[step++ % 8];
    snprintf(path, sizeof paths[0], "%s%s%s", folder, *name ? "/" : "", name);
    return path;
}

const char *scratch_write(const char *name, const void *bytes, size_t size)
{
    const char *path = scratch(name);
    FILE *file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    cr_assert_eq(fclose(file), 0);
    return path;
}

const char *scratch_text(const char *name, const char *text)
{
    return scratch_write(name, text, strlen(text));
}

void *scratch_read(const char *path, size_t *size)
{
    char *text = NULL;
    struct qp_error err;
    cr_assert_eq(qp_read_file(path, (size_t)1 << 30, &text, size, &err), 0, "%s", err.message);
    return text;
}
