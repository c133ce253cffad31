/* The head's matrix, which may be larger than any layer, is converted in panels where it is used. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "libstage/network/block_internal.h"
#include "libstage/stage/usage.h"
#include "tests/support/tiny.h"

enum { VOCAB = 2500, ROWS = 5 }; /* more than two panels, the last one not full */

static struct qp_arch arch;
static struct qp_unit *unit;

/* The head of a network with that vocabulary, its matrix in `dtype`; the network's own is BF16. */
static struct qp_block head_block(int64_t vocab, enum qp_dtype dtype)
{
    struct qp_error err;
    struct qp_block block;
    struct qp_tensor *gain, *matrix;
    json_t *config = tiny_config();
    json_object_set_new(config, "vocab_size", json_integer(vocab));
    json_object_set_new(config, "tie_word_embeddings", json_false());
    json_object_set_new(config, "torch_dtype", json_string("bfloat16"));
    cr_assert_eq(qp_arch_parse(config, "tiny", &arch, &err), 0, "%s", err.message);
    cr_assert_eq(qp_unit_new(QP_UNIT_BLOCK, TINY_LAYERS + 2, &unit, &err), 0);
    cr_assert_eq(qp_tensor_new("model.norm.weight", QP_F32, 1, (const int64_t[]){TINY_HIDDEN}, &gain, &err), 0);
    cr_assert_eq(qp_tensor_new("lm_head.weight", dtype, 2, (const int64_t[]){vocab, TINY_HIDDEN}, &matrix, &err), 0);
    tiny_random(1, TINY_HIDDEN, 1.0f, gain->data);
    cr_assert_eq(qp_unit_put(unit, gain, &err), 0);
    cr_assert_eq(qp_unit_put(unit, matrix, &err), 0);
    cr_assert_eq(qp_block_of(&arch, qp_kernels_open("cpu"), unit, &block, &err), 0, "%s", err.message);
    json_decref(config);
    return block;
}

static void drop(void)
{
    qp_unit_free(unit);
}

TestSuite(head, .fini = drop);

/* x Wᵀ after the norm, by its definition. */
static double logit(const float *x, const float *gain, const float *w)
{
    double square = 0, sum = 0;
    for (int i = 0; i < TINY_HIDDEN; i++)
        square += (double)x[i] * x[i];
    double scale = 1 / sqrt(square / TINY_HIDDEN + arch.output_norm.eps);
    for (int i = 0; i < TINY_HIDDEN; i++)
        sum += (double)x[i] * scale * gain[i] * w[i];
    return sum;
}

static void expect_logits(enum qp_dtype dtype, enum qp_dtype compute, enum qp_version version, double tolerance)
{
    static float w[VOCAB * TINY_HIDDEN], x[ROWS * TINY_HIDDEN], scratch[ROWS * TINY_HIDDEN], logits[ROWS * VOCAB];
    float g[TINY_HIDDEN];
    struct qp_error err;
    struct qp_head head;
    struct qp_block block = head_block(VOCAB, dtype);
    struct qp_tensor *t = qp_unit_find(unit, "lm_head.weight"), *gain = qp_unit_find(unit, "model.norm.weight");
    block.compute = compute;
    tiny_random(2, VOCAB * TINY_HIDDEN, 0.2f, w);
    tiny_random(3, ROWS * TINY_HIDDEN, 1.0f, x);
    block.kernels->from_f32(dtype, t->elements, w, t->data);
    block.kernels->to_f32(dtype, t->elements, t->data, w);
    block.kernels->to_f32(QP_F32, TINY_HIDDEN, gain->data, g);
    if (version == QP_QUANTIZED) {
        qp_round_to(block.kernels, QP_BF16, TINY_HIDDEN, g);
        qp_round_to(block.kernels, QP_BF16, t->elements, w);
    }
    cr_assert_eq(qp_head_load(&block, &head, &err), 0, "%s", err.message);
    qp_head_logits(&head, version, ROWS, x, scratch, logits);
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t v = 0; v < VOCAB; v++)
            cr_assert_float_eq(logits[r * VOCAB + v], logit(x + r * TINY_HIDDEN, g, w + v * TINY_HIDDEN), tolerance,
                               "%s in %s: row %lld, logit %lld", qp_dtype_name(dtype), qp_dtype_name(compute),
                               (long long)r, (long long)v);
    qp_head_free(&head);
}

Test(head, panels_of_bf16)
{
    expect_logits(QP_BF16, QP_F32, QP_ORIGINAL, 1e-4);
}

Test(head, panels_of_f16)
{
    expect_logits(QP_F16, QP_F32, QP_ORIGINAL, 1e-4);
}

Test(head, panels_of_f32)
{
    expect_logits(QP_F32, QP_F32, QP_ORIGINAL, 1e-4);
}

/* To BF16, which moves a logit by some thousandths. */
Test(head, panels_as_they_are_exported)
{
    expect_logits(QP_F32, QP_F32, QP_QUANTIZED, 1e-4);
}

Test(head, panels_for_bf16)
{
    expect_logits(QP_F16, QP_BF16, QP_ORIGINAL, 0.1);
}

/* A matrix of 300,000 rows has 77 MB in float32; its pages are read as zeros and take no memory. */
Test(head, holds_no_copy_of_the_matrix)
{
    enum { MANY = 300000 };
    static float x[TINY_HIDDEN], scratch[TINY_HIDDEN];
    struct qp_error err;
    struct qp_head head;
    struct qp_usage before, after;
    struct qp_block block = head_block(MANY, QP_BF16);
    float *logits = calloc(MANY, sizeof *logits);
    tiny_random(3, TINY_HIDDEN, 1.0f, x);
    qp_usage_read(&before);
    cr_assert_eq(qp_head_load(&block, &head, &err), 0, "%s", err.message);
    qp_head_logits(&head, QP_ORIGINAL, 1, x, scratch, logits);
    qp_usage_read(&after);
    cr_expect_lt(after.anonymous - before.anonymous, 40 << 20, "%lld bytes more",
                 (long long)(after.anonymous - before.anonymous));
    free(logits);
    qp_head_free(&head);
}
