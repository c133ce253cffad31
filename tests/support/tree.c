#include "tests/support/tree.h"

#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/scratch.h"

struct command tree_check(const char *script, const char *file, const char *text)
{
    static const char *const folders[] = {"kernels", "libstage", "stages", "runner", "examples", "tests"};
    struct qp_error err;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++)
        cr_assert_eq(qp_make_folders(scratch(folders[i]), &err), 0, "%s", err.message);
    qp_auto_free char *folder = qp_folder_of(scratch(file));
    cr_assert_eq(qp_make_folders(folder, &err), 0, "%s", err.message);
    scratch_text(file, text);
    return command_run(60, WORDS(script, scratch("")));
}
