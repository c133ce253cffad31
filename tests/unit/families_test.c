/* The forward of each family against transformers' logits in float64 (golden/families.py). */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "libstage/base/file.h"
#include "libstage/network/families/family.h"
#include "tests/support/golden.h"

enum { LENGTH = 12, VOCAB = 64, LOGITS = LENGTH * VOCAB };

static void read_logits(const char *family, float *out)
{
    char path[512];
    snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s/logits.bin", family);
    FILE *file = fopen(path, "rb");
    cr_assert(file, "%s is missing: run golden/families.py", path);
    cr_assert_eq(fread(out, sizeof *out, LOGITS, file), LOGITS, "%s", path);
    fclose(file);
}

/* Within 1e-4 of the largest logit. */
static void same_logits(const char *family, const char *backend)
{
    static float expected[LOGITS], found[LOGITS];
    char path[512];
    int32_t ids[LENGTH];
    struct qp_windows windows = {ids, 1, LENGTH};
    struct qp_checkpoint *checkpoint;
    struct qp_error err;
    float largest = 0;
    for (int i = 0; i < LENGTH; i++)
        ids[i] = (7 * i * i + 3 * i + 1) % VOCAB;
    read_logits(family, expected);
    for (int i = 0; i < LOGITS; i++)
        largest = fmaxf(largest, fabsf(expected[i]));
    snprintf(path, sizeof path, SOURCE_DIR "/tests/unit/golden/families/%s", family);
    cr_assert_eq(qp_checkpoint_open(path, &checkpoint, &err), 0, "%s", err.message);
    cr_assert_str_eq(checkpoint->arch.model_type, family);
    cr_assert_eq(network_logits(checkpoint, &windows, qp_kernels_open(backend), found, &err), 0, "%s", err.message);
    double worst = largest_difference(LOGITS, found, expected) / (double)largest;
    cr_expect_leq(worst, 1e-4, "%s on %s: %g of the largest logit", family, backend, worst);
    qp_checkpoint_close(checkpoint);
}

Test(families, logits_are_those_of_transformers)
{
    for (const struct qp_family *const *f = qp_families(); *f; f++) {
        same_logits((*f)->name, "ref");
        same_logits((*f)->name, "cpu");
    }
}
