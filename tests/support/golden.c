#include "tests/support/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/file.h"

const char *golden_path(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/tests/unit/golden/llama/%s", SOURCE_DIR, name);
    return path;
}

struct qp_checkpoint *golden_open(const char *name)
{
    struct qp_error err;
    struct qp_checkpoint *checkpoint = NULL;
    cr_assert_eq(qp_checkpoint_open(golden_path(name), &checkpoint, &err), 0, "%s", err.message);
    return checkpoint;
}

struct qp_block golden_block(struct qp_checkpoint *checkpoint, int64_t index)
{
    struct qp_error err;
    struct qp_unit *unit;
    struct qp_block block;
    cr_assert_eq(qp_checkpoint_block(checkpoint, index, NULL, &unit, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_of(&checkpoint->arch, qp_kernels_open("ref"), unit, &block, &err), 0, "%s", err.message);
    return block;
}

const struct qp_windows *golden_windows(void)
{
    static int32_t ids[GOLDEN_TOKENS];
    static const struct qp_windows windows = {ids, GOLDEN_SEQUENCES, GOLDEN_LENGTH};
    for (int i = 0; i < GOLDEN_TOKENS; i++)
        ids[i] = (7 * i * i + 3 * i + 1) % GOLDEN_VOCAB;
    return &windows;
}

const float *golden_logits(const char *name)
{
    static float logits[GOLDEN_LOGITS];
    struct qp_error err;
    char path[256], *bytes;
    size_t size;
    snprintf(path, sizeof path, "%s/logits.bin", name);
    cr_assert_eq(qp_read_file(golden_path(path), sizeof logits, &bytes, &size, &err), 0, "%s", err.message);
    cr_assert_eq(size, sizeof logits);
    memcpy(logits, bytes, size);
    free(bytes);
    return logits;
}

double largest_difference(int64_t count, const float *a, const float *b)
{
    double worst = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst))
            worst = isnan(d) ? INFINITY : d;
    }
    return worst;
}
