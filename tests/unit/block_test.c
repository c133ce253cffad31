#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/golden.h"
#include "tests/support/tiny.h"

/* ---- folds ---- */

enum { HIDDEN = 24, FFN = 40, HEADS_DIM = 32, LARGEST = FFN * FFN };

static int64_t site_size(const struct qp_block *block, int site)
{
    return block->type->sites[site].in;
}

/* Scales within a factor of 8 of 1. */
static void random_scales(uint64_t seed, int64_t count, float *s)
{
    tiny_random(seed, count, 0.7f, s);
    for (int64_t i = 0; i < count; i++)
        s[i] = exp2f(fminf(fmaxf(s[i], -3.0f), 3.0f));
}

static void fold(struct qp_block *block, int site, uint64_t seed, float *s)
{
    struct qp_error err;
    random_scales(seed, site_size(block, site), s);
    cr_assert_eq(qp_block_fold(block, site, s, &err), 0, "%s", err.message);
}

static void run(const struct qp_block *block, enum qp_version version, float *x)
{
    struct qp_error err;
    struct qp_layer layer;
    struct qp_workspace *workspace;
    struct qp_rotations rotations;
    tiny_random(9, GOLDEN_TOKENS * block->arch->hidden, 1.0f, x);
    cr_assert_eq(qp_layer_load(block, version, NULL, &layer, &err), 0, "%s", err.message);
    cr_assert_eq(qp_workspace_new(&workspace, &err), 0);
    cr_assert_eq(qp_rotations_open(block->arch, GOLDEN_LENGTH, &rotations, &err), 0);
    cr_assert_eq(qp_layer_forward(&layer, &(struct qp_sequences){GOLDEN_SEQUENCES, GOLDEN_LENGTH, x}, &rotations,
                                  workspace, NULL, &err),
                 0);
    qp_layer_free(&layer);
    qp_workspace_free(workspace);
    qp_rotations_close(&rotations);
}

/* Two folds at every site, through grouped heads, biases, and gains that are stored in 16 bits. */
static void folds_change_nothing(const char *model)
{
    static float before[GOLDEN_TOKENS * HIDDEN], after[GOLDEN_TOKENS * HIDDEN], s[FFN], w[LARGEST], folded[LARGEST];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open(model);
    struct qp_block block = golden_block(checkpoint, 1);
    run(&block, QP_ORIGINAL, before);
    for (int site = 0; site < QP_SITES; site++) {
        fold(&block, site, 10 + (uint64_t)site, s);
        fold(&block, site, 20 + (uint64_t)site, s);
    }
    run(&block, QP_TRANSFORMED, after);
    double worst = largest_difference(GOLDEN_TOKENS * HIDDEN, before, after);
    cr_assert_leq(worst, 1e-5 * 5, "%s: %g", model, worst); /* of values up to 5 and more */
    for (int l = 0; l < QP_LINEARS; l++) {
        cr_assert_eq(qp_block_weight(&block, l, false, w, &err), 0);
        cr_assert_eq(qp_block_weight(&block, l, true, folded, &err), 0);
        cr_assert_gt(largest_difference(HIDDEN * 16, w, folded), 0.1, "%s: linear %d was not folded", model, l);
    }
    run(&block, QP_ORIGINAL, after);
    cr_assert_eq(largest_difference(GOLDEN_TOKENS * HIDDEN, before, after), 0.0);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(fold, leaves_the_function_of_a_bfloat16_model)
{
    folds_change_nothing("plain");
}

Test(fold, leaves_the_function_of_a_float16_model_with_biases)
{
    folds_change_nothing("biased");
}

Test(fold, leaves_the_function_of_a_float32_model)
{
    folds_change_nothing("linear");
}

Test(fold, the_gain_is_what_its_dtype_holds)
{
    float s[HIDDEN], gain[HIDDEN], folded[HIDDEN], rounded[HIDDEN];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 2);
    fold(&block, QP_SITE_MLP_IN, 5, s);
    cr_assert_eq(qp_block_norm(&block, QP_NORM_MLP, false, gain, &err), 0);
    cr_assert_eq(qp_block_norm(&block, QP_NORM_MLP, true, folded, &err), 0);
    uint16_t bits[HIDDEN];
    qp_from_f32_ref(QP_BF16, HIDDEN, folded, bits);
    qp_to_f32_ref(QP_BF16, HIDDEN, bits, rounded);
    for (int i = 0; i < HIDDEN; i++) {
        cr_assert_eq(folded[i], rounded[i]);
        cr_assert_float_eq(folded[i] * s[i], gain[i], 2e-7f * fabsf(gain[i]));
    }
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(fold, a_gain_that_would_vanish_is_left_alone)
{
    float s[HIDDEN];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("biased"); /* F16: the smallest is 6e-8 */
    struct qp_block block = golden_block(checkpoint, 1);
    for (int i = 0; i < HIDDEN; i++)
        s[i] = i == 3 ? 1e10f : i == 4 ? 1e-10f : 2.0f;
    cr_assert_eq(qp_block_fold(&block, QP_SITE_ATTN_IN, s, &err), 0);
    for (int i = 0; i < HIDDEN; i++)
        cr_assert_float_eq(s[i], i == 3 || i == 4 ? 1.0f : 2.0f, 1e-3f);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(fold, heads_that_share_values_get_their_geometric_mean)
{
    float s[HEADS_DIM], asked[HEADS_DIM];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 1);
    random_scales(6, HEADS_DIM, asked);
    memcpy(s, asked, sizeof s);
    cr_assert_eq(qp_block_fold(&block, QP_SITE_ATTN_OUT, s, &err), 0);
    for (int i = 0; i < HEADS_DIM; i++) { /* heads 0 and 1, and 2 and 3, of 8 */
        int other = i ^ 8;
        cr_assert_float_eq(s[i], sqrtf(asked[i] * asked[other]), 1e-5f * s[i]);
        cr_assert_eq(s[i], s[other]);
    }
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

/* Puts the upper triangle of a site's Hessian in its place. */
static void pack_hessian(const struct qp_block *block, int64_t n, const char *name)
{
    struct qp_tensor *packed;
    struct qp_error err;
    const float *h = qp_unit_find(block->unit, name)->data;
    int64_t numbers = n * (n + 1) / 2, at = 0;
    cr_assert_eq(qp_tensor_new(name, QP_F32, 1, &numbers, &packed, &err), 0, "%s", err.message);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            ((float *)packed->data)[at++] = h[i * n + j];
    cr_assert_eq(qp_unit_put(block->unit, packed, &err), 0);
}

Test(block, a_packed_hessian_is_the_whole_one)
{
    static float whole[TINY_FFN * TINY_FFN], unpacked[TINY_FFN * TINY_FFN];
    static const char name[] = "model.layers.0.mlp_out.hessian";
    float s[TINY_FFN];
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS];
    struct qp_arch arch;
    struct qp_block block;
    json_t *config = tiny_config();
    tiny_units("\"int4\"", true, units);
    cr_assert_eq(qp_arch_parse(config, "tiny", &arch, &err), 0);
    cr_assert_eq(qp_block_of(&arch, qp_kernels_open("ref"), units[2], &block, &err), 0);
    fold(&block, QP_SITE_MLP_OUT, 7, s);
    cr_assert_eq(qp_block_hessian(&block, QP_SITE_MLP_OUT, whole, &err), 0, "%s", err.message);
    pack_hessian(&block, TINY_FFN, name);
    cr_assert_eq(qp_block_hessian(&block, QP_SITE_MLP_OUT, unpacked, &err), 0, "%s", err.message);
    for (int i = 0; i < TINY_FFN * TINY_FFN; i++)
        cr_assert_eq(unpacked[i], whole[i], "number %d", i);
    int64_t shape[] = {TINY_FFN};
    struct qp_tensor *short_one;
    cr_assert_eq(qp_tensor_new(name, QP_F32, 1, shape, &short_one, &err), 0);
    cr_assert_eq(qp_unit_put(units[2], short_one, &err), 0);
    cr_expect_eq(qp_block_hessian(&block, QP_SITE_MLP_OUT, whole, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "mlp_out.hessian: found shape [96], expected [4656]"), "%s", err.message);
    qp_block_drop(&block, QP_SITE_MLP_OUT, "hessian");
    cr_expect_null(qp_unit_find(units[2], name));
    json_decref(config);
    tiny_free(units, TINY_UNITS);
}

Test(fold, statistics_follow)
{
    static float h[TINY_FFN * TINY_FFN], folded[TINY_FFN * TINY_FFN];
    float s[TINY_FFN], absmax[TINY_FFN], folded_absmax[TINY_FFN];
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS];
    struct qp_arch arch;
    struct qp_block block;
    json_t *config = tiny_config();
    tiny_units("\"int4\"", true, units);
    cr_assert_eq(qp_arch_parse(config, "tiny", &arch, &err), 0);
    cr_assert_eq(qp_block_of(&arch, qp_kernels_open("ref"), units[2], &block, &err), 0);
    cr_assert(qp_block_has_stat(&block, QP_SITE_ATTN_OUT, "absmax"));
    cr_assert(!qp_block_has_stat(&block, QP_SITE_ATTN_OUT, "min"));
    for (int site = 0; site < QP_SITES; site++) {
        int64_t n = site_size(&block, site);
        cr_assert_eq(qp_block_hessian(&block, site, h, &err), 0, "%s", err.message);
        cr_assert_eq(qp_block_stat(&block, site, "absmax", absmax, &err), 0);
        fold(&block, site, 30 + (uint64_t)site, s);
        cr_assert_eq(qp_block_hessian(&block, site, folded, &err), 0);
        cr_assert_eq(qp_block_stat(&block, site, "absmax", folded_absmax, &err), 0);
        for (int64_t i = 0; i < n; i++) {
            cr_assert_float_eq(folded_absmax[i] * s[i], absmax[i], 1e-6f * absmax[i]);
            for (int64_t j = 0; j < n; j++)
                cr_assert_float_eq(folded[i * n + j] * s[i] * s[j], h[i * n + j], 1e-6f * fabsf(h[i * n + j]) + 1e-6f);
        }
    }
    cr_assert_eq(qp_block_stat(&block, QP_SITE_MLP_IN, "max", absmax, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "model.layers.0.mlp_in.max"), "%s", err.message);
    json_decref(config);
    tiny_free(units, TINY_UNITS);
}

Test(fold, bad_scales_are_refused)
{
    float s[HIDDEN];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 1);
    const float bad[] = {0.0f, -1.0f, INFINITY, NAN};
    for (int b = 0; b < 4; b++) {
        for (int i = 0; i < HIDDEN; i++)
            s[i] = i == 7 ? bad[b] : 1.0f;
        cr_assert_eq(qp_block_fold(&block, QP_SITE_ATTN_IN, s, &err), QP_ERR_INPUT);
        cr_assert_not_null(strstr(err.message, "site attn_in: scale 7 is"), "%s", err.message);
    }
    cr_assert(!qp_block_has_stat(&block, QP_SITE_ATTN_IN, "fold"));
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

/* ---- units ---- */

Test(block, units_are_told_apart)
{
    struct qp_error err;
    struct qp_block block;
    struct qp_unit *units[TINY_UNITS];
    struct qp_arch arch;
    json_t *config = tiny_config();
    tiny_units("\"int4\"", false, units);
    cr_assert_eq(qp_arch_parse(config, "tiny", &arch, &err), 0);
    for (int u = 0; u < TINY_UNITS; u++) {
        bool is_block = u > 0 && u < TINY_UNITS - 1;
        cr_assert_eq(qp_block_of(&arch, NULL, units[u], &block, &err), is_block ? 0 : QP_ERR_INPUT);
        if (!is_block)
            continue;
        cr_assert_eq(block.layer, u - 2);
        cr_assert_eq(qp_block_is_layer(&block), u >= 2 && u < 2 + TINY_LAYERS);
    }
    units[2]->seq = TINY_LAYERS + 3;
    cr_assert_eq(qp_block_of(&arch, NULL, units[2], &block, &err), QP_ERR_INPUT);
    json_decref(config);
    tiny_free(units, TINY_UNITS);
}

/* Replaces a tensor of the block by one of another shape or dtype. */
static void spoil(struct qp_block *block, const char *name, enum qp_dtype dtype, int rank, int64_t rows, int64_t cols)
{
    struct qp_error err;
    struct qp_tensor *t;
    int64_t shape[2] = {rows, cols};
    cr_assert_eq(qp_tensor_new(name, dtype, rank, shape, &t, &err), 0);
    memset(t->data, 0, t->bytes);
    cr_assert_eq(qp_unit_put(block->unit, t, &err), 0);
}

Test(block, tensors_that_do_not_fit_are_refused)
{
    static float w[LARGEST];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 1);
    spoil(&block, "model.layers.0.mlp.up_proj.weight", QP_BF16, 2, HIDDEN, FFN);
    cr_assert_eq(qp_block_weight(&block, QP_UP, true, w, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "mlp.up_proj.weight: found shape [24, 40], expected [40, 24]"), "%s",
                       err.message);
    spoil(&block, "model.layers.0.mlp.up_proj.weight", QP_I8, 2, FFN, HIDDEN);
    cr_assert_eq(qp_block_weight(&block, QP_UP, true, w, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "found dtype I8"), "%s", err.message);
    spoil(&block, "model.layers.0.mlp_in.fold", QP_F32, 1, HIDDEN, 0); /* zeros */
    cr_assert_eq(qp_block_weight(&block, QP_GATE, true, w, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "mlp_in.fold: element 0 is 0"), "%s", err.message);
    qp_unit_remove(block.unit, "model.layers.0.self_attn.q_proj.weight");
    cr_assert_eq(qp_block_weight(&block, QP_Q, false, w, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "has no tensor model.layers.0.self_attn.q_proj.weight"), "%s", err.message);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

/* ---- quantized ---- */

static struct qp_linear_scheme grouped(bool symmetric)
{
    struct qp_quant_spec weights = {
        .enabled = true,
        .format = {.codes = QP_I8, .bits = 4, .symmetric = symmetric, .scale_dtype = QP_F32},
        .granularity = QP_PER_GROUP,
        .group = 8,
    };
    return (struct qp_linear_scheme){.weights = weights};
}

Test(block, quantized_comes_back)
{
    static uint8_t codes[FFN * HIDDEN];
    static float scale[FFN * 3];
    static int8_t zero[FFN * 3];
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 1);
    struct qp_linear_scheme scheme = grouped(false);
    for (int i = 0; i < FFN * HIDDEN; i++)
        codes[i] = (uint8_t)(i % 16 - 8);
    for (int i = 0; i < FFN * 3; i++) {
        scale[i] = 0.5f + (float)i;
        zero[i] = (int8_t)(i % 3);
    }
    struct qp_quantized back, q = {scheme.weights.format, FFN, HIDDEN, 8, codes, scale, zero, NULL, NULL};
    cr_assert_eq(qp_block_quantized(&block, QP_UP, &scheme, &back, &err), 0);
    cr_assert_eq(qp_block_set_quantized(&block, QP_UP, &q, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_quantized(&block, QP_UP, &scheme, &back, &err), 1, "%s", err.message);
    cr_assert_eq(memcmp(back.codes, codes, sizeof codes), 0);
    cr_assert_eq(memcmp(back.scale, scale, sizeof scale), 0);
    cr_assert_eq(memcmp(back.zero, zero, sizeof zero), 0);
    cr_assert(back.rows == FFN && back.cols == HIDDEN && back.group == 8);

    /* Symmetric afterwards: the old zero points are gone. */
    scheme = grouped(true);
    q.zero = NULL;
    cr_assert_eq(qp_block_set_quantized(&block, QP_UP, &q, NULL, &err), 0);
    cr_assert_null(qp_unit_find(block.unit, "model.layers.0.mlp.up_proj.weight_zero_point"));
    cr_assert_eq(qp_block_quantized(&block, QP_UP, &scheme, &back, &err), 1);
    cr_assert_null(back.zero);

    /* A scheme that says something else. */
    scheme = grouped(false);
    cr_assert_eq(qp_block_quantized(&block, QP_UP, &scheme, &back, &err), QP_ERR_INPUT);
    scheme = grouped(true);
    scheme.weights.group = 12;
    cr_assert_eq(qp_block_quantized(&block, QP_UP, &scheme, &back, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, "weight_scale: found shape [40, 3], expected [40, 2]"), "%s", err.message);
    cr_assert_eq(qp_block_quantized(&block, QP_UP, NULL, &back, &err), QP_ERR_INPUT);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}

Test(block, one_scale_for_all)
{
    static uint8_t codes[FFN * HIDDEN];
    float scale = 0.25f;
    struct qp_error err;
    struct qp_checkpoint *checkpoint = golden_open("plain");
    struct qp_block block = golden_block(checkpoint, 1);
    struct qp_linear_scheme scheme = {
        .weights = {.enabled = true,
                    .format = {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32},
                    .granularity = QP_PER_TENSOR}};
    struct qp_quantized back, q = {scheme.weights.format, HIDDEN, FFN, 0, codes, &scale, NULL, NULL, NULL};
    cr_assert_eq(qp_block_set_quantized(&block, QP_DOWN, &q, NULL, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_quantized(&block, QP_DOWN, &scheme, &back, &err), 1, "%s", err.message);
    cr_assert_eq(back.group, 0);
    cr_assert_eq(back.scale[0], 0.25f);
    qp_unit_free(block.unit);
    qp_checkpoint_close(checkpoint);
}
