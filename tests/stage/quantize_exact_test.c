/* quantize: `exact: modelopt` makes NVIDIA Model Optimizer's own codes and scales of examples/tiny.
 * golden/exact_modelopt.py made golden/exact_modelopt.json. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>
#include <xxhash.h>

#include "kernels/codec.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/checkpoint.h"
#include "libstage/network/model_unit.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

static struct qp_checkpoint *checkpoint;
static json_t *golden;

static void open_all(void)
{
    struct qp_error err;
    cr_assert_eq(qp_read_json(SOURCE_DIR "/tests/stage/golden/exact_modelopt.json", 1 << 20, &golden, &err), 0, "%s",
                 err.message);
    cr_assert_eq(qp_checkpoint_open(SOURCE_DIR "/examples/tiny", &checkpoint, &err), 0, "%s", err.message);
}

static void close_all(void)
{
    qp_checkpoint_close(checkpoint);
    json_decref(golden);
}

TestSuite(quantize_exact, .init = open_all, .fini = close_all);

static const struct qp_layer_type *type(void)
{
    return checkpoint->arch.layer_types[0];
}

static double number_of(const json_t *entry, const char *key)
{
    return json_number_value(json_object_get(entry, key));
}

/* A statistic whose first channel has the whole range. */
static void put_range(struct qp_unit *unit, const char *module, const char *what, int64_t n, double range)
{
    struct qp_error err;
    struct qp_tensor *t;
    qp_auto_free char *name = qp_format("%s.%s", module, what);
    cr_assert_eq(qp_allocate(NULL, name, QP_F32, 1, &n, &t, &err), 0);
    memset(t->data, 0, t->bytes);
    *(float *)t->data = (float)range;
    cr_assert_eq(qp_unit_put(unit, t, &err), 0);
}

/* Gives a layer the ranges of inputs, keys and values that modelopt saw. */
static void put_ranges(struct qp_unit *unit, int64_t layer, const json_t *preset)
{
    qp_auto_free char *block = qp_format("model.layers.%d", (int)layer);
    for (int i = 0; i < QP_LINEARS; i++) {
        const struct qp_linear *d = &type()->linears[i];
        const struct qp_site *site = &type()->sites[d->site];
        qp_auto_free char *linear = qp_format("%s.%s", block, d->module), *to = qp_format("%s.%s", block, site->name);
        qp_auto_free char *absmax = qp_format("%s.absmax", to);
        const json_t *entry = json_object_get(preset, linear);
        if (json_object_get(entry, "input_amax") && !qp_unit_find(unit, absmax))
            put_range(unit, to, "absmax", site->in, number_of(entry, "input_amax"));
    }
    for (int i = 0; i < 2; i++) {
        qp_auto_free char *side = qp_format("%s.%s", block, i ? "v" : "k"), *kv = qp_format("%s.kv", block);
        const json_t *entry = json_object_get(preset, side);
        if (entry)
            put_range(unit, kv, i ? "value_absmax" : "key_absmax",
                      checkpoint->arch.kv_heads * checkpoint->arch.head_dim, number_of(entry, "cache_amax"));
    }
}

static uint64_t digest_of(const json_t *entry, const char *key)
{
    return strtoull(json_string_value(json_object_get(entry, key)), NULL, 16);
}

/* Scales as numbers of their dtype, E4M3 below the global one, in a new array. */
static float *stored(const struct qp_quantized *q)
{
    int64_t count = qp_scale_count(q->rows, q->cols, q->group);
    float *scale = malloc((size_t)count * sizeof *scale);
    for (int64_t i = 0; i < count; i++)
        scale[i] = q->format.scale_dtype == QP_F8_E4M3
                       ? qp_e4m3_to_f32(qp_f32_to_e4m3(qp_scale_stored(&q->format, q->scale[i])))
                       : q->scale[i];
    return scale;
}

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 0x1p-22 * fabs(b);
}

static void compare_linear(const char *preset, const struct qp_block *block, int linear, const struct qp_model *model,
                           const json_t *entry)
{
    struct qp_error err;
    struct qp_quantized q;
    const struct qp_linear *d = &type()->linears[linear];
    const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, linear);
    cr_assert_eq(qp_block_quantized(block, linear, scheme, &q, &err), 1, "%s, %s", preset, d->module);
    qp_auto_free float *scale = stored(&q);
    size_t count = (size_t)qp_scale_count(q.rows, q.cols, q.group);
    cr_expect_eq(XXH3_64bits(q.codes, (size_t)(q.rows * q.cols)), digest_of(entry, "codes"), "%s: codes of %s differ",
                 preset, d->module);
    cr_expect_eq(XXH3_64bits(scale, count * sizeof *scale), digest_of(entry, "scale"), "%s: scales of %s differ",
                 preset, d->module);
    if (json_object_get(entry, "scale_2"))
        cr_expect(is_near(1.0 / q.format.global, number_of(entry, "scale_2")), "%s: %s has the global scale 1 / %g",
                  preset, d->module, 1.0 / q.format.global);
}

static void compare_input(const char *preset, const struct qp_block *block, int site, const json_t *entry)
{
    struct qp_error err;
    float scale;
    bool nvfp4 = strncmp(preset, "NVFP4", 5) == 0;
    cr_assert_eq(
        qp_block_number(block, type()->sites[site].name, nvfp4 ? "input_global_scale" : "input_scale", &scale, &err), 0,
        "%s: %s", preset, err.message);
    cr_expect(nvfp4 ? is_near(1.0 / scale, number_of(entry, "input_scale")) : scale == number_of(entry, "input_scale"),
              "%s: input scale %g of %s", preset, (double)scale, type()->sites[site].name);
}

static void compare_cache(const char *preset, const struct qp_block *block, const json_t *expected)
{
    for (int i = 0; i < 2; i++) {
        struct qp_error err;
        float scale;
        qp_auto_free char *side = qp_format("model.layers.%d.%s", (int)block->layer, i ? "v" : "k");
        const json_t *entry = json_object_get(expected, side);
        if (!entry)
            continue;
        cr_assert_eq(qp_block_number(block, "kv", i ? "value_scale" : "key_scale", &scale, &err), 0, "%s", err.message);
        cr_expect_eq(scale, number_of(entry, "cache_scale"), "%s: %s", preset, side);
    }
}

/* Compares a layer with what modelopt exported; returns how many linears. */
static int compare_layer(const char *preset, struct qp_unit *unit, const struct qp_model *model, const json_t *expected)
{
    struct qp_error err;
    struct qp_block block;
    int count = 0;
    cr_assert_eq(qp_block_of(&model->arch, qp_kernels_open("cpu"), unit, &block, &err), 0, "%s", err.message);
    for (int i = 0; i < QP_LINEARS; i++) {
        qp_auto_free char *name = qp_format("model.layers.%d.%s", (int)block.layer, type()->linears[i].module);
        const json_t *entry = json_object_get(expected, name);
        if (!entry)
            continue;
        compare_linear(preset, &block, i, model, entry);
        if (json_object_get(entry, "input_scale"))
            compare_input(preset, &block, type()->linears[i].site, entry);
        count++;
    }
    compare_cache(preset, &block, expected);
    return count;
}

/* Presets whose activations nobody calibrated there, or that modelopt takes at run time: weights only. */
static void drop_uncalibrated(json_t *mapping, const json_t *expected)
{
    const json_t *first = json_object_iter_value(json_object_iter((json_t *)expected));
    const json_t *activations = json_object_get(mapping, "activations");
    if (json_is_false(json_object_get(activations, "dynamic")) && !json_object_get(first, "input_amax"))
        json_object_del(mapping, "activations");
}

static struct qp_unit *unit_of(int64_t layer, const json_t *expected)
{
    struct qp_error err;
    struct qp_unit *unit;
    cr_assert_eq(qp_checkpoint_block(checkpoint, layer + 1, NULL, &unit, &err), 0, "%s", err.message);
    put_ranges(unit, layer, expected);
    return unit;
}

static void compare(const char *preset, const json_t *expected)
{
    struct qp_error err;
    struct qp_scheme *scheme;
    struct qp_model model;
    struct qp_unit *units[3];
    size_t count;
    qp_auto_json json_t *mapping = qp_preset_mapping(preset, &err);
    cr_assert_not_null(mapping, "%s: %s", preset, err.message);
    json_object_set_new(mapping, "exact", json_string("modelopt"));
    drop_uncalibrated(mapping, expected);
    cr_assert_eq(qp_scheme_parse(mapping, &scheme, &err), 0, "%s: %s", preset, err.message);
    cr_assert_eq(qp_checkpoint_model(checkpoint, scheme, &units[0], &err), 0, "%s", err.message);
    qp_scheme_free(scheme);
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    units[1] = unit_of(0, expected);
    units[2] = unit_of(5, expected);
    struct qp_unit **out =
        tiny_call(&qp_stage_desc, &(struct tiny_call){.params = "{\"method\": \"rtn\"}", .units = units, .count = 3},
                  &count, NULL);
    cr_assert_eq(count, 3);
    int compared = compare_layer(preset, out[1], &model, expected) + compare_layer(preset, out[2], &model, expected);
    cr_expect(compared >= 6, "%s: %d linears", preset, compared);
    tiny_free(out, count);
    free(out);
    qp_model_close(&model);
}

Test(quantize_exact, modelopt_has_the_same_codes_and_scales)
{
    const char *preset;
    const json_t *expected;
    json_object_foreach(golden, preset, expected)
        compare(preset, expected);
    cr_expect_eq(json_object_size(golden), 15);
}
