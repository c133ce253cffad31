/* quantize: the ranges that it fixes for activations and KV caches. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/calibration/calibrator.h"
#include "libstage/calibration/histogram.h"
#include "libstage/network/model_unit.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

enum { WINDOWS = 3, LENGTH = 40, ROWS = WINDOWS * LENGTH, KV = 32 };

#define INT8_STATIC "{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false}}"
#define NVFP4 "{\"weights\": {\"format\": \"nvfp4\"}, \"activations\": {\"format\": \"nvfp4\"}}"
#define KV_FP8 "{\"weights\": {\"format\": \"int8\"}, \"kv_cache\": {\"format\": \"fp8_e4m3\"}}"

static struct qp_arch arch;
static struct qp_unit *units[TINY_UNITS];

static void put(struct qp_block *block, const char *module, const char *what, int rank, int64_t rows, int64_t cols,
                const float *values)
{
    char name[256];
    int64_t shape[2] = {rows, cols};
    struct qp_tensor *t;
    struct qp_error err;
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", (int)block->layer, module, what);
    cr_assert_eq(qp_allocate(NULL, name, QP_F32, rank, shape, &t, &err), 0);
    memcpy(t->data, values, t->bytes);
    cr_assert_eq(qp_unit_put(block->unit, t, &err), 0);
}

/* The text's inputs of a site: normal numbers, a few channels ten times as large. */
static const float *inputs(int layer, int site, int64_t n)
{
    static float x[ROWS * TINY_FFN];
    tiny_random((uint64_t)(10 * layer + site + 1), ROWS * n, 1.0f, x);
    for (int64_t i = 0; i < ROWS * n; i += 17)
        x[i] *= 10.0f;
    return x;
}

static void put_site(struct qp_block *block, int site)
{
    static float counts[TINY_FFN * QP_LOG_BINS], low[WINDOWS * TINY_FFN], high[WINDOWS * TINY_FFN];
    static float absmax[TINY_FFN], blocks[QP_BLOCK_BINS];
    const struct qp_site *desc = &arch.layer_types[0]->sites[site];
    int64_t n = desc->in;
    const float *x = inputs((int)block->layer, site, n);
    memset(counts, 0, sizeof counts);
    memset(blocks, 0, sizeof blocks);
    memset(absmax, 0, sizeof absmax);
    qp_histogram_add(ROWS, n, x, counts);
    qp_block_histogram_add(ROWS, n, x, blocks);
    for (int64_t i = 0; i < ROWS * n; i++) {
        int64_t at = i / n / LENGTH * n + i % n;
        low[at] = i / n % LENGTH ? fminf(low[at], x[i]) : x[i];
        high[at] = i / n % LENGTH ? fmaxf(high[at], x[i]) : x[i];
        absmax[i % n] = fmaxf(absmax[i % n], fabsf(x[i]));
    }
    put(block, desc->name, "histogram", 2, n, QP_LOG_BINS, counts);
    put(block, desc->name, "window_min", 2, WINDOWS, n, low);
    put(block, desc->name, "window_max", 2, WINDOWS, n, high);
    put(block, desc->name, "samples", 2, ROWS, n, x);
    put(block, desc->name, "block_histogram", 1, QP_BLOCK_BINS, 0, blocks);
    put(block, desc->name, "absmax", 1, n, 0, absmax);
}

static struct qp_block block_at(int layer)
{
    struct qp_error err;
    struct qp_block block;
    cr_assert_eq(qp_block_of(&arch, qp_kernels_open("ref"), units[2 + layer], &block, &err), 0);
    return block;
}

static void make_units(const char *scheme)
{
    struct qp_error err;
    json_t *config = tiny_config();
    cr_assert_eq(qp_arch_parse(config, "tiny", &arch, &err), 0);
    json_decref(config);
    tiny_units(scheme, false, units);
    for (int l = 0; l < TINY_LAYERS; l++) {
        struct qp_block block = block_at(l);
        float ranges[2 * KV];
        for (int s = 0; s < QP_SITES; s++)
            put_site(&block, s);
        for (int i = 0; i < 2 * KV; i++)
            ranges[i] = 1.0f + (float)i;
        put(&block, "kv", "key_absmax", 1, KV, 0, ranges);
        put(&block, "kv", "value_absmax", 1, KV, 0, ranges + KV);
    }
}

/* Runs the stage over the units, which are its results afterwards. */
static json_t *quantize(const char *params)
{
    json_t *report = NULL;
    size_t count;
    struct qp_unit **out = tiny_call(
        &qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, &count, &report);
    cr_assert_eq(count, TINY_UNITS);
    memcpy(units, out, sizeof units);
    free(out);
    return report;
}

static float number(int layer, const char *module, const char *what)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, module, what);
    struct qp_tensor *t = qp_unit_find(units[2 + layer], name);
    cr_assert_not_null(t, "%s is missing", name);
    cr_assert_eq(t->elements, 1);
    return *(const float *)t->data;
}

static float largest_input(int layer, int site, const float *fold)
{
    int64_t n = arch.layer_types[0]->sites[site].in;
    const float *x = inputs(layer, site, n);
    float most = 0.0f;
    for (int64_t i = 0; i < ROWS * n; i++)
        most = fmaxf(most, fabsf(x[i]) / (fold ? fold[i % n] : 1.0f));
    return most;
}

Test(quantize_activations, the_largest_input_is_the_range)
{
    make_units(INT8_STATIC);
    json_t *report = quantize(NULL);
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int s = 0; s < QP_SITES; s++)
            cr_expect_float_eq(number(l, arch.layer_types[0]->sites[s].name, "input_scale"),
                               largest_input(l, s, NULL) / 127.5f, 1e-7);
    cr_expect_eq(json_array_size(json_object_get(report, "warnings")), 0);
    json_decref(report);
    tiny_free(units, TINY_UNITS);
}

Test(quantize_activations, folds_change_the_range)
{
    float s[TINY_HIDDEN];
    struct qp_error err;
    make_units(INT8_STATIC);
    struct qp_block block = block_at(0);
    for (int i = 0; i < TINY_HIDDEN; i++)
        s[i] = 0.25f + (float)(i % 7);
    cr_assert_eq(qp_block_fold(&block, QP_SITE_ATTN_IN, s, &err), 0, "%s", err.message); /* s: as it was done */
    json_decref(quantize(NULL));
    cr_expect_float_eq(number(0, "attn_in", "input_scale"), largest_input(0, QP_SITE_ATTN_IN, s) / 127.5f, 1e-6);
    tiny_free(units, TINY_UNITS);
}

/* The range that holds `percent` of a site's inputs, by sorting them. */
static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static float percentile(int site, double percent)
{
    static float sorted[ROWS * TINY_FFN];
    int64_t count = ROWS * arch.layer_types[0]->sites[site].in;
    const float *x = inputs(0, site, count / ROWS);
    for (int64_t i = 0; i < count; i++)
        sorted[i] = fabsf(x[i]);
    qsort(sorted, (size_t)count, sizeof *sorted, by_size);
    return sorted[(int64_t)ceil((double)count * percent / 100.0) - 1];
}

Test(quantize_activations, a_percentile_that_clips_much_is_told)
{
    make_units(INT8_STATIC);
    json_t *report = quantize("{\"activation_calibrator\": \"percentile\", \"activation_percentile\": 98}");
    float found = number(0, "mlp_in", "input_scale") * 127.5f, expected = percentile(QP_SITE_MLP_IN, 98.0);
    cr_expect(fabsf(found / expected - 1.0f) < 0.045f, "%g, expected %g", found, expected); /* a bin's width */
    const json_t *warnings = json_object_get(report, "warnings"), *first = json_array_get(warnings, 0);
    cr_assert_eq(json_array_size(warnings), TINY_LAYERS * QP_SITES);
    cr_expect_str_eq(json_string_value(json_object_get(first, "code")), "activation-saturates");
    cr_expect_str_eq(json_string_value(json_object_get(first, "where")), "model.layers.0.attn_in");
    cr_expect_not_null(strstr(json_string_value(json_object_get(first, "message")), "2.00 %"), "%s",
                       json_string_value(json_object_get(first, "message")));
    json_decref(report);
    tiny_free(units, TINY_UNITS);
}

Test(quantize_activations, other_calibrators_clip_outliers)
{
    static const char *const params[] = {
        "{\"activation_calibrator\": \"entropy\"}", "{\"activation_calibrator\": \"mse\"}",
        "{\"activation_calibrator\": \"average\"}",
        "{\"activation_calibrator\": \"percentile\", \"activation_percentile\": 99.9}"};
    for (size_t i = 0; i < sizeof params / sizeof *params; i++) {
        make_units(
            "{\"weights\": {\"format\": \"int4\"}, \"activations\": {\"format\": \"int4\", \"dynamic\": false}}");
        json_decref(quantize(params[i]));
        float range = number(1, "mlp_out", "input_scale") * 7.5f, whole = largest_input(1, QP_SITE_MLP_OUT, NULL);
        cr_expect(range > 0.05f * whole && range < whole, "%s: %g of %g", params[i], range, whole);
        tiny_free(units, TINY_UNITS);
    }
}

Test(quantize_activations, nvfp4_gets_a_global_scale)
{
    make_units(NVFP4);
    json_decref(quantize(NULL));
    cr_expect_float_eq(number(1, "attn_out", "input_global_scale"),
                       448.0f * 6.0f / largest_input(1, QP_SITE_ATTN_OUT, NULL), 1e-3);
    cr_expect_null(qp_unit_find(units[3], "model.layers.1.attn_out.input_scale"));
    tiny_free(units, TINY_UNITS);
}

Test(quantize_activations, nvfp4_gets_headroom_that_folds_change)
{
    static float counts[QP_BLOCK_BINS];
    struct qp_error err;
    float s[TINY_HIDDEN];
    make_units(NVFP4);
    const float *x = inputs(1, QP_SITE_ATTN_IN, TINY_HIDDEN);
    qp_block_histogram_add(ROWS, TINY_HIDDEN, x, counts);
    float whole = qp_range_headroom(counts, 0.0f, 16384.0);
    struct qp_block block = block_at(0);
    for (int i = 0; i < TINY_HIDDEN; i++)
        s[i] = 2.0f;
    cr_assert_eq(qp_block_fold(&block, QP_SITE_ATTN_IN, s, &err), 0, "%s", err.message);
    json_decref(quantize("{\"activation_headroom\": 16384}"));
    cr_expect_float_eq(number(1, "attn_in", "input_global_scale"), 2688.0f / whole, 1e-9);
    cr_expect(whole > 100.0f * largest_input(1, QP_SITE_ATTN_IN, NULL), "%g", (double)whole);
    float halved = 2688.0f / number(0, "attn_in", "input_global_scale");
    cr_expect(halved > 0.4f * whole && halved < 0.65f * whole, "%g of %g", (double)halved, (double)whole);
    tiny_free(units, TINY_UNITS);
}

Test(quantize_activations, caches_get_scales_with_the_folds_through_values)
{
    float s[TINY_HIDDEN];
    struct qp_error err;
    make_units(KV_FP8);
    struct qp_block block = block_at(1);
    for (int i = 0; i < TINY_HIDDEN; i++)
        s[i] = i < TINY_HIDDEN / 2 ? 1.0f : 4.0f; /* the second value head's rows are divided by 4 */
    cr_assert_eq(qp_block_fold(&block, QP_SITE_ATTN_OUT, s, &err), 0, "%s", err.message);
    json_decref(quantize(NULL));
    cr_expect_float_eq(number(0, "kv", "key_scale"), 32.0f / 448.0f, 1e-7);
    cr_expect_float_eq(number(0, "kv", "value_scale"), 64.0f / 448.0f, 1e-7);
    cr_expect_float_eq(number(1, "kv", "key_scale"), 32.0f / 448.0f, 1e-7);
    cr_expect_float_eq(number(1, "kv", "value_scale"), 48.0f / 448.0f, 1e-7);
    cr_expect_null(qp_unit_find(units[2], "model.layers.0.attn_in.input_scale"));
    tiny_free(units, TINY_UNITS);
}

Test(quantize_activations, a_missing_statistic_is_an_error)
{
    size_t count;
    make_units(INT8_STATIC);
    qp_unit_remove(units[2], "model.layers.0.attn_in.absmax");
    tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
              &count, NULL);
    cr_expect(strstr(tiny_message, "attn_in.absmax"), "%s", tiny_message);
}
