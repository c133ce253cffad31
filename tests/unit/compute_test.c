/* Computing in BF16: close to float32, the same numbers for whoever looks, and the choice of it. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/network/evaluate.h"
#include "tests/support/golden.h"
#include "tests/support/llama.h"

#define HIDDEN 24

/* The network's logits, its hidden states kept in BF16 between the blocks. */
static void bf16_logits(struct qp_checkpoint *checkpoint, const char *backend, float *logits)
{
    static float x[GOLDEN_TOKENS * HIDDEN], scratch[GOLDEN_TOKENS * HIDDEN];
    const struct qp_kernels *kernels = qp_kernels_open(backend);
    const struct qp_windows *windows = golden_windows();
    struct qp_hidden_states states;
    struct qp_text text;
    struct qp_error err;
    cr_assert_eq(qp_text_open(&checkpoint->arch, windows, &text, &err), 0);
    cr_assert_eq(qp_hidden_open_as(windows, HIDDEN, QP_BF16, NULL, &states, &err), 0);
    for (int64_t b = 0; b < qp_arch_blocks(&checkpoint->arch); b++) {
        struct qp_block block = golden_block(checkpoint, b);
        struct qp_layer layer;
        struct qp_head head;
        block.kernels = kernels;
        block.compute = QP_BF16;
        if (block.layer < 0) {
            cr_assert_eq(qp_text_embed(&text, &block, QP_ORIGINAL, &states, &err), 0);
        } else if (qp_block_is_layer(&block)) {
            cr_assert_eq(qp_layer_load(&block, QP_ORIGINAL, NULL, &layer, &err), 0, "%s", err.message);
            cr_assert_eq(qp_text_forward(&text, &layer, &states, NULL, &err), 0);
            qp_layer_free(&layer);
        } else {
            cr_assert_eq(qp_head_load(&block, &head, &err), 0, "%s", err.message);
            qp_hidden_read(&states, kernels, 0, GOLDEN_TOKENS, x);
            qp_head_logits(&head, QP_ORIGINAL, GOLDEN_TOKENS, x, scratch, logits);
            qp_head_free(&head);
        }
        qp_unit_free(block.unit);
    }
    qp_hidden_close(&states);
    qp_text_close(&text);
}

/* Logits lie within +-5, of about ten roundings by 2^-9 each. */
Test(compute, bf16_comes_close_to_transformers_in_float32)
{
    static float logits[GOLDEN_LOGITS];
    static const char *const models[] = {"plain", "biased", "llama3"}, *const backends[] = {"ref", "cpu", "avx2"};
    for (size_t m = 0; m < 3; m++)
        for (size_t b = 0; b < 3; b++) {
            if (!qp_kernels_open(backends[b]))
                continue;
            struct qp_checkpoint *checkpoint = golden_open(models[m]);
            const float *expected = golden_logits(models[m]);
            double square = 0.0;
            bf16_logits(checkpoint, backends[b], logits);
            for (int i = 0; i < GOLDEN_LOGITS; i++)
                square += pow((double)logits[i] - expected[i], 2.0);
            double deviation = sqrt(square / GOLDEN_LOGITS);
            cr_expect(deviation < 0.03 && deviation > 1e-4, "%s on %s: %g", models[m], backends[b], deviation);
            qp_checkpoint_close(checkpoint);
        }
}

struct seen {
    float *x[QP_SITES];
    int64_t count[QP_SITES];
};

static int see(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct seen *s = context;
    s->count[site] = rows * in;
    s->x[site] = malloc((size_t)(rows * in) * sizeof *x);
    memcpy(s->x[site], x, (size_t)(rows * in) * sizeof *x);
    return 0;
}

static int see_bf16(void *context, int site, const uint16_t *x, int64_t rows, int64_t in, struct qp_error *err)
{
    float *wide = malloc((size_t)(rows * in) * sizeof *wide);
    qp_kernels_open("ref")->to_f32(QP_BF16, rows * in, x, wide);
    int r = see(context, site, wide, rows, in, err);
    free(wide);
    return r;
}

static struct seen forward(const struct qp_layer *layer, const struct qp_taps *taps, float *x)
{
    struct seen seen = {0};
    struct qp_text text;
    struct qp_error err;
    struct qp_taps t = *taps;
    const struct qp_windows *windows = golden_windows();
    t.context = &seen;
    for (int i = 0; i < GOLDEN_TOKENS * HIDDEN; i++)
        x[i] = sinf((float)i);
    cr_assert_eq(qp_text_open(layer->arch, windows, &text, &err), 0);
    cr_assert_eq(qp_layer_forward(layer, &(struct qp_sequences){windows->count, windows->length, x}, &text.rotations,
                                  text.workspace, &t, &err),
                 0);
    qp_text_close(&text);
    return seen;
}

Test(compute, sites_are_shown_alike_in_both_types)
{
    static float x[GOLDEN_TOKENS * HIDDEN], last[GOLDEN_TOKENS * HIDDEN];
    struct qp_error err;
    struct qp_layer layer;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 1);
    block.compute = QP_BF16;
    cr_assert_eq(qp_layer_load(&block, QP_ORIGINAL, NULL, &layer, &err), 0);
    struct seen wide = forward(&layer, &(struct qp_taps){.site = see}, x);
    struct seen narrow = forward(&layer, &(struct qp_taps){.site = see, .site_bf16 = see_bf16, .ends = true}, last);
    for (int s = 0; s < QP_SITES; s++) {
        cr_assert_gt(wide.count[s], 0);
        cr_assert_eq(wide.count[s], narrow.count[s]);
        cr_assert_eq(memcmp(wide.x[s], narrow.x[s], (size_t)wide.count[s] * sizeof(float)), 0, "site %d", s);
        free(wide.x[s]);
        free(narrow.x[s]);
    }
    cr_assert_neq(memcmp(x, last, sizeof x), 0, "the last product is left out");
    qp_layer_free(&layer);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(compute, auto_goes_by_checkpoint_and_processor)
{
    struct qp_kernels fast = {.bf16 = true}, slow = {.bf16 = false};
    struct qp_arch arch = {.dtype = QP_F16};
    cr_expect_eq(qp_compute("auto", &arch, &fast), QP_BF16);
    cr_expect_eq(qp_compute("auto", &arch, &slow), QP_F32);
    cr_expect_eq(qp_compute("bf16", &arch, &slow), QP_BF16);
    cr_expect_eq(qp_compute("fp32", &arch, &fast), QP_F32);
    arch.dtype = QP_F32;
    cr_expect_eq(qp_compute("auto", &arch, &fast), QP_F32);
    cr_expect_str_eq(qp_compute_name(QP_BF16), "bf16");
    cr_expect_str_eq(qp_compute_name(QP_F32), "fp32");
}
