/* quantize when the checkpoint that its blocks refer to is truncated under it. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/network/checkpoint.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

TestSuite(quantize_truncated, .init = scratch_make, .fini = scratch_drop);

/* Units whose weights lie in the mapped file. */
static struct qp_checkpoint *open_units(struct qp_unit *units[TINY_UNITS])
{
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    tiny_write(scratch(""));
    cr_assert_eq(qp_checkpoint_open(scratch(""), &checkpoint, &err), 0, "%s", err.message);
    tiny_units("\"int4\"", false, units);
    for (int u = 2; u < TINY_UNITS - 2; u++) {
        int64_t seq = units[u]->seq;
        qp_unit_free(units[u]);
        cr_assert_eq(qp_checkpoint_block(checkpoint, u - 1, NULL, &units[u], &err), 0, "%s", err.message);
        units[u]->seq = seq;
    }
    return checkpoint;
}

static void quantize(off_t cut, int expected)
{
    struct qp_unit *units[TINY_UNITS], **out;
    struct qp_checkpoint *checkpoint = open_units(units);
    const char *path = scratch("model.safetensors");
    struct stat file;
    size_t count;
    cr_assert_eq(stat(path, &file), 0);
    cr_assert_eq(truncate(path, file.st_size - cut), 0);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){
                        .params = "{\"method\": \"rtn\"}", .units = units, .count = TINY_UNITS, .expected = expected},
                    &count, NULL);
    cr_expect_eq(strstr(tiny_message, "model.safetensors: the file was truncated") != NULL, expected != 0, "%s",
                 tiny_message);
    tiny_free(out, count);
    free(out);
    qp_checkpoint_close(checkpoint);
}

Test(quantize_truncated, whole_files_are_quantized)
{
    quantize(0, 0);
}

Test(quantize_truncated, most_of_the_file_is_gone)
{
    struct stat file;
    tiny_write(scratch(""));
    cr_assert_eq(stat(scratch("model.safetensors"), &file), 0);
    quantize(file.st_size - 4096, QP_ERR_INPUT);
}

Test(quantize_truncated, the_last_byte_is_gone)
{
    quantize(1, QP_ERR_INPUT);
}
