/* Simulated quantization of activations and KV caches, against roundings by hand from the definitions. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/block_internal.h"
#include "tests/support/golden.h"
#include "tests/support/tiny.h"

enum { LENGTH = 9, SEQUENCES = 2, ROWS = SEQUENCES * LENGTH, COUNT = ROWS * TINY_HIDDEN, KV = 32 };

static const float input_scale = 0.03f, global_scale = 700.0f, key_scale = 0.02f, value_scale = 0.0075f;
static struct qp_error err;

struct rig {
    struct qp_arch arch;
    struct qp_unit *units[TINY_UNITS];
    struct qp_scheme *scheme;
    struct qp_block block;
    struct qp_layer layer;
    struct qp_rotations rotations;
    struct qp_workspace *workspace;
};

static void open_rig(struct rig *r, const char *scheme)
{
    json_t *config = tiny_config(), *value = json_loads(scheme, JSON_DECODE_ANY, NULL);
    tiny_units("\"int8\"", false, r->units);
    cr_assert_eq(qp_arch_parse(config, "tiny", &r->arch, &err), 0);
    cr_assert_eq(qp_scheme_parse(value, &r->scheme, &err), 0, "%s", err.message);
    qp_scheme_bind(r->scheme, r->arch.dtype);
    cr_assert_eq(qp_block_of(&r->arch, qp_kernels_open("cpu"), r->units[2], &r->block, &err), 0);
    cr_assert_eq(qp_rotations_open(&r->arch, LENGTH, &r->rotations, &err), 0);
    cr_assert_eq(qp_workspace_new(&r->workspace, &err), 0);
    cr_assert_eq(qp_layer_load(&r->block, QP_ORIGINAL, NULL, &r->layer, &err), 0, "%s", err.message);
    json_decref(config);
    json_decref(value);
}

static void close_rig(struct rig *r)
{
    qp_layer_free(&r->layer);
    qp_scheme_free(r->scheme);
    tiny_free(r->units, TINY_UNITS);
    qp_workspace_free(r->workspace);
    qp_rotations_close(&r->rotations);
}

static void set(struct rig *r, const char *module, const char *what, float value)
{
    cr_assert_eq(qp_block_set_number(&r->block, module, what, value, NULL, &err), 0, "%s", err.message);
}

static void set_everything(struct rig *r)
{
    for (int s = 0; s < QP_SITES; s++) {
        set(r, r->arch.layer_types[0]->sites[s].name, "input_scale", input_scale);
        set(r, r->arch.layer_types[0]->sites[s].name, "input_global_scale", global_scale);
    }
    set(r, "kv", "key_scale", key_scale);
    set(r, "kv", "value_scale", value_scale);
}

/* ---- numbers by definition ---- */

/* The value of a small float's code: sign-less, OCP's layout with `mantissa` bits and this bias. */
static float value_of(int code, int mantissa, int bias)
{
    int exponent = code >> mantissa, fraction = code & ((1 << mantissa) - 1);
    return exponent ? ldexpf(1.0f + ldexpf((float)fraction, -mantissa), exponent - bias)
                    : ldexpf((float)fraction, 1 - bias - mantissa);
}

/* The nearest of all values, by looking at each; ties go to the even code. `codes`: how many are finite. */
static float nearest(float x, int codes, int mantissa, int bias)
{
    float a = fabsf(x);
    int best = 0;
    for (int code = 1; code < codes; code++) {
        double d = fabs((double)a - value_of(code, mantissa, bias)) - fabs((double)a - value_of(best, mantissa, bias));
        if (d < 0.0 || (d == 0.0 && code % 2 == 0))
            best = code;
    }
    return copysignf(value_of(best, mantissa, bias), x);
}

static float e4m3(float x)
{
    return nearest(x, 127, 3, 7);
}

static float e2m1(float x)
{
    return nearest(x, 8, 1, 1);
}

static float largest(const float *x, int64_t count)
{
    float most = 0.0f;
    for (int64_t i = 0; i < count; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

static void int8_static(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = rintf(fminf(fmaxf(x[i] / input_scale, -128.0f), 127.0f)) * input_scale;
}

static void fp8_with(float *x, int64_t count, float scale)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = e4m3(x[i] / scale) * scale;
}

static void fp8_static(float *x, int64_t count)
{
    fp8_with(x, count, input_scale);
}

static void fp8_group(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i += 32)
        fp8_with(x + i, 32, largest(x + i, 32) / 448.0f);
}

/* compressed-tensors' rule: from 1.75 times a power of two on, the next one. */
static float power_of_two(const float *x)
{
    return exp2f(floorf(log2f(largest(x, 32) / 0.875f)));
}

static void mxfp8(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i += 32)
        fp8_with(x + i, 32, power_of_two(x + i) / 256.0f);
}

static void mxfp4(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i += 32) {
        float scale = power_of_two(x + i) / 4.0f;
        for (int64_t j = i; j < i + 32; j++)
            x[j] = e2m1(x[j] / scale) * scale;
    }
}

static void nvfp4(float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i += 16) {
        float scale = fmaxf(e4m3(largest(x + i, 16) / 6.0f * global_scale), 0x1p-9f) / global_scale;
        for (int64_t j = i; j < i + 16; j++)
            x[j] = e2m1(x[j] / scale) * scale;
    }
}

static void int8_asymmetric(float *x, int64_t count)
{
    float low = 0.0f, high = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    float scale = (high - low) / 255.0f, zero = rintf(fminf(fmaxf(-128.0f - low / scale, -128.0f), 127.0f));
    for (int64_t i = 0; i < count; i++)
        x[i] = (rintf(fminf(fmaxf(x[i] / scale + zero, -128.0f), 127.0f)) - zero) * scale;
}

/* ---- the forward ---- */

typedef void round_fn(float *x, int64_t count); /* a token's inputs */

/* The forward's own buffers are changed, as its simulation would. */
static int round_site(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *e)
{
    (void)site;
    (void)e;
    for (int64_t r = 0; r < rows; r++)
        (*(round_fn *const *)context)((float *)x + r * in, in);
    return 0;
}

static int round_cache_int8(void *context, const float *keys, const float *values, int64_t rows, int64_t dim,
                            struct qp_error *e)
{
    (void)context;
    (void)e;
    cr_assert_eq(dim, KV);
    for (int64_t i = 0; i < rows * dim; i++) {
        ((float *)keys)[i] = rintf(fminf(fmaxf(keys[i] / key_scale, -128.0f), 127.0f)) * key_scale;
        ((float *)values)[i] = rintf(fminf(fmaxf(values[i] / value_scale, -128.0f), 127.0f)) * value_scale;
    }
    return 0;
}

static int round_cache_fp8(void *context, const float *keys, const float *values, int64_t rows, int64_t dim,
                           struct qp_error *e)
{
    (void)context;
    (void)e;
    fp8_with((float *)keys, rows * dim, key_scale);
    fp8_with((float *)values, rows * dim, value_scale);
    return 0;
}

static void run(struct rig *r, const struct qp_taps *taps, float *x)
{
    tiny_random(3, COUNT, 1.0f, x);
    cr_assert_eq(qp_layer_forward(&r->layer, &(struct qp_sequences){SEQUENCES, LENGTH, x}, &r->rotations, r->workspace,
                                  taps, &err),
                 0);
}

static void is_by_hand(const char *scheme, const struct qp_taps *taps)
{
    static float simulated[COUNT], by_hand[COUNT], original[COUNT];
    struct rig r;
    open_rig(&r, scheme);
    run(&r, NULL, original);
    run(&r, taps, by_hand);
    set_everything(&r);
    cr_assert_eq(qp_layer_activations(&r.block, r.scheme, NULL, &r.layer, &err), 0, "%s", err.message);
    run(&r, NULL, simulated);
    cr_assert_leq(largest_difference(COUNT, simulated, by_hand), 0.0, "%s", scheme);
    cr_assert_gt(largest_difference(COUNT, simulated, original), 1e-3, "%s", scheme);
    close_rig(&r);
}

static void sites_are_by_hand(const char *weights, const char *activations, round_fn *round)
{
    char scheme[512];
    snprintf(scheme, sizeof scheme, "{\"weights\": {%s}, \"activations\": {%s}}", weights, activations);
    is_by_hand(scheme, &(struct qp_taps){.site = round_site, .context = &round});
}

#define INT8_WEIGHTS "\"format\": \"int8\""
#define FP8_WEIGHTS "\"format\": \"fp8_e4m3\""

Test(activations, int8_of_one_fixed_range)
{
    sites_are_by_hand(INT8_WEIGHTS, "\"format\": \"int8\", \"dynamic\": false", int8_static);
}

Test(activations, fp8_of_one_fixed_range)
{
    sites_are_by_hand(FP8_WEIGHTS, "\"format\": \"fp8_e4m3\", \"dynamic\": false", fp8_static);
}

Test(activations, fp8_of_groups)
{
    sites_are_by_hand(FP8_WEIGHTS, "\"format\": \"fp8_e4m3\", \"group\": 32", fp8_group);
}

Test(activations, mxfp8)
{
    sites_are_by_hand("\"format\": \"mxfp8\"", "\"format\": \"mxfp8\"", mxfp8);
}

Test(activations, mxfp4)
{
    sites_are_by_hand("\"format\": \"mxfp4\"", "\"format\": \"mxfp4\"", mxfp4);
}

Test(activations, nvfp4_below_a_fixed_global_scale)
{
    sites_are_by_hand("\"format\": \"nvfp4\"", "\"format\": \"nvfp4\"", nvfp4);
}

Test(activations, int8_with_zero_points)
{
    sites_are_by_hand(INT8_WEIGHTS, "\"format\": \"int8\", \"symmetric\": false", int8_asymmetric);
}

Test(activations, caches_of_int8)
{
    is_by_hand("{\"weights\": {\"format\": \"int4\"}, \"kv_cache\": {\"format\": \"int8\"}}",
               &(struct qp_taps){.cache = round_cache_int8});
}

Test(activations, caches_of_fp8)
{
    is_by_hand("{\"weights\": {\"format\": \"int4\"}, \"kv_cache\": {\"format\": \"fp8_e4m3\"}}",
               &(struct qp_taps){.cache = round_cache_fp8});
}

/* ---- what is missing or wrong ---- */

static void is_refused(struct rig *r, const char *message)
{
    cr_assert_eq(qp_layer_activations(&r->block, r->scheme, NULL, &r->layer, &err), QP_ERR_INPUT);
    cr_assert_not_null(strstr(err.message, message), "%s", err.message);
}

Test(activations, missing_scales_are_named)
{
    struct rig r;
    open_rig(&r, "{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false}}");
    is_refused(&r, "no tensor model.layers.0.attn_in.input_scale");
    close_rig(&r);
    open_rig(&r, "{\"weights\": {\"format\": \"nvfp4\"}, \"activations\": {\"format\": \"nvfp4\"}}");
    is_refused(&r, "no tensor model.layers.0.attn_in.input_global_scale");
    close_rig(&r);
    open_rig(&r, "{\"weights\": {\"format\": \"int4\"}, \"kv_cache\": {\"format\": \"int8\"}}");
    set(&r, "kv", "key_scale", 1.0f);
    is_refused(&r, "no tensor model.layers.0.kv.value_scale");
    close_rig(&r);
}

Test(activations, scales_are_positive_numbers)
{
    static const float wrong[] = {0.0f, -1.0f, INFINITY, NAN};
    struct rig r;
    open_rig(&r, "{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false}}");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_expect_eq(qp_block_set_number(&r.block, "attn_in", "input_scale", wrong[i], NULL, &err), QP_ERR_INPUT);
        set(&r, "attn_in", "input_scale", 1.0f);
        struct qp_tensor *t = qp_block_find(&r.block, "attn_in", "input_scale");
        *(float *)t->data = wrong[i];
        is_refused(&r, "attn_in.input_scale is ");
    }
    close_rig(&r);
}

Test(activations, sites_without_quantized_linears_need_no_scales)
{
    struct rig r;
    open_rig(&r, "{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false}}");
    const bool down[QP_LINEARS] = {[QP_DOWN] = true};
    set(&r, "mlp_out", "input_scale", 1.0f);
    cr_assert_eq(qp_layer_activations(&r.block, r.scheme, down, &r.layer, &err), 0, "%s", err.message);
    for (int s = 0; s < QP_SITES; s++)
        cr_expect_eq(r.layer.activations[s].enabled, s == QP_SITE_MLP_OUT);
    close_rig(&r);
}
