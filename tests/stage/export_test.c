/* export: what is written is what came in, whole or not at all. */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/checkpoint.h"
#include "libstage/network/model_unit.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

TestSuite(export, .init = scratch_make, .fini = scratch_drop);

#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"

struct fixture {
    char output[128], context[256];
    struct qp_unit *units[TINY_UNITS];
};

static void set_up(struct fixture *f, const char *scheme)
{
    snprintf(f->output, sizeof f->output, "%s", scratch("out"));
    cr_assert_eq(qp_remove_tree(f->output, NULL), 0);
    snprintf(f->context, sizeof f->context, "{\"output\": \"%s\"}", f->output);
    tiny_units(scheme, false, f->units);
    json_object_set_new(f->units[0]->attrs, "path", json_string(scratch(""))); /* side files are looked for here */
    tiny_quantize(f->units);
}

static bool exists(const struct fixture *f, const char *suffix)
{
    char path[256];
    snprintf(path, sizeof path, "%s%s", f->output, suffix);
    return qp_exists(path);
}

/* No temporary folder is left beside the output. */
static void expect_nothing_beside(const struct fixture *f)
{
    glob_t found = {0};
    qp_auto_free char *folder = qp_folder_of(f->output), *pattern = qp_format("%s/.out*", folder);
    cr_expect_eq(glob(pattern, 0, NULL, &found), GLOB_NOMATCH);
    globfree(&found);
}

Test(export, writes_what_came_in)
{
    struct fixture f;
    struct qp_error err;
    struct qp_safetensors *file;
    json_t *report = NULL;
    size_t count;
    set_up(&f, INT4_G32);
    struct qp_tensor *codes = qp_tensor_ref(qp_unit_find(f.units[2], "model.layers.0.mlp.up_proj.weight_codes"));
    free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS},
                   &count, &report));
    cr_assert_eq(qp_safetensors_open(f.output, &file, &err), 0, "%s", err.message);
    struct qp_tensor *packed = qp_safetensors_find(file, "model.layers.0.mlp.up_proj.weight_packed");
    cr_assert_not_null(packed);
    int8_t *back = malloc((size_t)codes->elements);
    qp_kernels_open("ref")->unpack(4, TINY_FFN, TINY_HIDDEN, packed->data, back);
    cr_expect_arr_eq(back, codes->data, (size_t)codes->elements);
    cr_expect_not_null(qp_safetensors_find(file, "model.embed_tokens.weight"));
    cr_expect_not_null(qp_safetensors_find(file, "model.norm.weight"));
    cr_expect_null(qp_safetensors_find(file, "lm_head.weight"), "a tied head was written");
    expect_nothing_beside(&f);
    const json_t *output = json_array_get(json_object_get(report, "outputs"), 0);
    cr_expect_str_eq(json_string_value(json_object_get(output, "path")), f.output);
    cr_expect_eq(strlen(json_string_value(json_object_get(output, "digest"))), 32);
    free(back);
    qp_tensor_unref(codes);
    qp_safetensors_close(file);
    json_decref(report);
}

Test(export, config_says_how_it_is_quantized)
{
    struct fixture f;
    struct qp_error err;
    json_t *config;
    size_t count;
    char path[256];
    set_up(&f, "{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"ignore\": [\"lm_head\", "
               "\"model.layers.1.mlp.down_proj\"]}");
    free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS},
                   &count, NULL));
    snprintf(path, sizeof path, "%s/config.json", f.output);
    cr_assert_eq(qp_read_json(path, 1 << 20, &config, &err), 0, "%s", err.message);
    const json_t *q = json_object_get(config, "quantization_config");
    cr_expect_str_eq(json_string_value(json_object_get(q, "quant_method")), "compressed-tensors");
    const json_t *ignore = json_object_get(q, "ignore");
    cr_assert_eq(json_array_size(ignore), 2);
    cr_expect_str_eq(json_string_value(json_array_get(ignore, 0)), "lm_head");
    cr_expect_str_eq(json_string_value(json_array_get(ignore, 1)), "model.layers.1.mlp.down_proj");
    json_decref(config);
}

/* Gives both layers the numbers that calibration fixes for activations and the KV cache. */
static void fix_ranges(struct fixture *f, const char *module, const char *what, float value)
{
    struct qp_error err;
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        char name[128];
        struct qp_tensor *t;
        snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, module, what);
        cr_assert_eq(qp_tensor_new(name, QP_F32, 1, (const int64_t[]){1}, &t, &err), 0, "%s", err.message);
        *(float *)t->data = value;
        cr_assert_eq(qp_unit_put(f->units[2 + layer], t, &err), 0, "%s", err.message);
    }
}

static void fix_sites(struct fixture *f, const char *what, float value)
{
    static const char *const sites[] = {"attn_in", "attn_out", "mlp_in", "mlp_out"};
    for (int i = 0; i < 4; i++)
        fix_ranges(f, sites[i], what, value);
}

/* down_proj of layer 1 from its codes, as the unit says; the unit is gone once it is exported. */
static float *dequantized(const struct fixture *f)
{
    struct qp_error err;
    struct qp_model model;
    struct qp_block block;
    struct qp_quantized q;
    float *w = malloc(sizeof *w * TINY_HIDDEN * TINY_FFN);
    const struct qp_kernels *k = qp_kernels_open("ref");
    cr_assert_eq(qp_model_open(f->units[0], &model, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_of(&model.arch, k, f->units[3], &block, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_quantized(&block, QP_DOWN, qp_model_scheme(&model, 1, QP_DOWN), &q, &err), 1, "%s",
                 err.message);
    k->dequantize(&(struct qp_grouped){&q.format, q.rows, q.cols, q.group, q.scale, q.zero}, q.codes, w);
    qp_model_close(&model);
    return w;
}

static void comes_back(const char *scheme)
{
    struct fixture f;
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    struct qp_tensor *read;
    size_t count;
    set_up(&f, scheme);
    fix_sites(&f, "input_scale", 0.25f);
    fix_sites(&f, "input_global_scale", 300.0f);
    fix_ranges(&f, "kv", "key_scale", 0.5f);
    fix_ranges(&f, "kv", "value_scale", 0.125f);
    float *expected = dequantized(&f);
    free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS},
                   &count, NULL));
    cr_assert_eq(qp_checkpoint_open(f.output, &checkpoint, &err), 0, "%s: %s", scheme, err.message);
    cr_assert_eq(qp_checkpoint_tensor(checkpoint, "model.layers.1.mlp.down_proj.weight", NULL, &read, &err), 0,
                 "%s: %s", scheme, err.message);
    cr_expect_eq(read->elements, TINY_HIDDEN * TINY_FFN);
    cr_expect_arr_eq(read->data, expected, read->bytes, "%s", scheme);
    qp_tensor_unref(read);
    qp_checkpoint_close(checkpoint);
    free(expected);
}

Test(export, every_layout_reads_back_as_it_was_quantized)
{
    comes_back("\"nvfp4\"");
    comes_back("\"mxfp4\"");
    comes_back("\"mxfp6-weight-only\"");
    comes_back("\"mxfp8-kv-fp8\"");
    comes_back("\"fp8-kv-fp8\"");
    comes_back("\"int8-static-kv-int8\"");
    comes_back("{\"weights\": {\"format\": \"fp8_e4m3\", \"block\": [24, 40]}}");
    comes_back("{\"weights\": {\"format\": \"int3\", \"block\": [10, 32]}}");
    comes_back("{\"exact\": \"modelopt\", \"weights\": {\"format\": \"int4\", \"group\": 32}}");
}

Test(export, fixed_ranges_are_written_beside_their_linears)
{
    struct fixture f;
    struct qp_error err;
    struct qp_safetensors *file;
    size_t count;
    set_up(&f, "\"fp8-kv-fp8\"");
    fix_sites(&f, "input_scale", 0.25f);
    fix_ranges(&f, "kv", "key_scale", 0.5f);
    fix_ranges(&f, "kv", "value_scale", 0.125f);
    free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS},
                   &count, NULL));
    cr_assert_eq(qp_safetensors_open(f.output, &file, &err), 0, "%s", err.message);
    static const struct {
        const char *name;
        float value;
    } scales[] = {{"model.layers.1.mlp.down_proj.input_scale", 0.25f},
                  {"model.layers.0.self_attn.k_scale", 0.5f},
                  {"model.layers.1.self_attn.v_scale", 0.125f}};
    for (int i = 0; i < 3; i++) {
        const struct qp_tensor *t = qp_safetensors_find(file, scales[i].name);
        cr_assert_not_null(t, "%s", scales[i].name);
        cr_expect(t->dtype == QP_F32 && t->rank == 1 && t->elements == 1);
        cr_expect_eq(*(const float *)t->data, scales[i].value);
    }
    qp_safetensors_close(file);
}

enum { RANK = 3 };

/* Gives down_proj of both layers a correction of a rank; the factors are those of the seed. */
static void correct(struct fixture *f, const int64_t rank[TINY_LAYERS])
{
    struct qp_error err;
    struct qp_model model;
    cr_assert_eq(qp_model_open(f->units[0], &model, &err), 0, "%s", err.message);
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        struct qp_block block;
        float a[(RANK + 1) * TINY_FFN], b[TINY_HIDDEN * (RANK + 1)];
        tiny_random(1 + (uint64_t)layer, (RANK + 1) * TINY_FFN, 1.0f, a);
        tiny_random(9 + (uint64_t)layer, TINY_HIDDEN * (RANK + 1), 1.0f, b);
        cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("ref"), f->units[2 + layer], &block, &err), 0);
        cr_assert_eq(qp_block_set_low_rank(&block, QP_DOWN, rank[layer], a, b, NULL, &err), 0, "%s", err.message);
    }
    qp_model_close(&model);
}

static void export_corrected(struct fixture *f, json_t **report)
{
    size_t count;
    set_up(f, INT4_G32);
    correct(f, (const int64_t[]){RANK, RANK});
    free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f->context, .units = f->units, .count = TINY_UNITS},
                   &count, report));
}

Test(export, corrections_read_back_as_they_were_written)
{
    struct fixture f;
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    struct qp_block block;
    struct qp_unit *unit;
    const struct qp_tensor *a, *b;
    float expected[RANK * TINY_FFN];
    json_t *report;
    export_corrected(&f, &report);
    const json_t *output = json_array_get(json_object_get(report, "outputs"), 0);
    const json_t *low = json_object_get(output, "low_rank"), *sizes = json_object_get(output, "size_bytes");
    json_int_t bytes = (json_int_t)sizeof(float) * TINY_LAYERS * RANK * (TINY_HIDDEN + TINY_FFN);
    cr_expect_eq(json_integer_value(json_object_get(low, "rank")), RANK);
    cr_expect_eq(json_integer_value(json_object_get(low, "size_bytes")), bytes);
    cr_expect_gt(json_integer_value(json_object_get(sizes, "quantized")), bytes);
    cr_assert_eq(qp_checkpoint_open(f.output, &checkpoint, &err), 0, "%s", err.message);
    cr_assert_eq(qp_checkpoint_block(checkpoint, 2, NULL, &unit, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_of(&checkpoint->arch, qp_kernels_open("ref"), unit, &block, &err), 0);
    cr_assert_eq(qp_checkpoint_low_rank(checkpoint, &block, &err), 0, "%s", err.message);
    cr_expect_eq(qp_block_low_rank(&block, QP_UP, &a, &b, &err), 0);
    cr_assert_eq(qp_block_low_rank(&block, QP_DOWN, &a, &b, &err), 1, "%s", err.message);
    tiny_random(2, RANK * TINY_FFN, 1.0f, expected);
    cr_expect_arr_eq(a->data, expected, sizeof expected);
    qp_unit_free(unit);
    qp_checkpoint_close(checkpoint);
    json_decref(report);
}

/* Changes one entry of the adapter's configuration. */
static void adapter_is_refused(const char *key, json_t *value, const char *fragment)
{
    struct fixture f;
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    json_t *config;
    char path[256];
    export_corrected(&f, NULL);
    snprintf(path, sizeof path, "%s/%s/%s", f.output, QP_ADAPTER_FOLDER, QP_ADAPTER_CONFIG);
    cr_assert_eq(qp_read_json(path, 1 << 20, &config, &err), 0, "%s", err.message);
    json_object_set_new(config, key, value);
    cr_assert_eq(qp_write_json(path, config, &err), 0, "%s", err.message);
    cr_expect_eq(qp_checkpoint_open(f.output, &checkpoint, &err), QP_ERR_INPUT, "%s", key);
    cr_expect(strstr(err.message, fragment), "%s: '%s' lacks '%s'", key, err.message, fragment);
    json_decref(config);
}

Test(export, adapters_that_are_more_than_corrections_are_refused)
{
    adapter_is_refused("peft_type", json_string("VERA"), "found peft_type VERA, expected LORA");
    adapter_is_refused("use_dora", json_true(), "expected factors that are added as they are");
    adapter_is_refused("alpha_pattern", json_pack("{s:i}", "down_proj", 8), "expected factors that are added");
    adapter_is_refused("lora_alpha", json_integer(2 * RANK), "found r 3 and lora_alpha 6");
    adapter_is_refused("r", json_integer(0), "found r 0");
    adapter_is_refused("lora_alpha", json_null(), "lora_alpha 0");
}

Test(export, an_adapter_of_another_shape_or_model_is_refused)
{
    struct fixture f;
    struct qp_error err;
    struct qp_checkpoint *checkpoint;
    char folder[256];
    export_corrected(&f, NULL);
    snprintf(folder, sizeof folder, "%s/%s", f.output, QP_ADAPTER_FOLDER);
    struct {
        const char *name, *fragment;
        int64_t rows, cols;
    } cases[] = {
        {"base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", "found one factor of two", RANK, 96},
        {"base_model.model.model.layers.7.mlp.down_proj.lora_A.weight", "found 1 tensors, of which 0", RANK, 9}};
    for (int i = 0; i < 2; i++) {
        struct qp_safetensors_writer *writer;
        struct qp_tensor *t;
        char from[320], to[320];
        cr_assert_eq(qp_tensor_new(cases[i].name, QP_F32, 2, (int64_t[]){cases[i].rows, cases[i].cols}, &t, &err), 0);
        cr_assert_eq(qp_safetensors_create(folder, INT64_MAX, 1, &writer, &err), 0, "%s", err.message);
        cr_assert_eq(qp_safetensors_put(writer, t, &err), 0, "%s", err.message);
        cr_assert_eq(qp_safetensors_finish(writer, NULL, &err), 0, "%s", err.message);
        snprintf(from, sizeof from, "%s/model.safetensors", folder);
        snprintf(to, sizeof to, "%s/%s", folder, QP_ADAPTER_TENSORS);
        cr_assert_eq(rename(from, to), 0);
        qp_tensor_unref(t);
        cr_expect_eq(qp_checkpoint_open(f.output, &checkpoint, &err), QP_ERR_INPUT);
        cr_expect(strstr(err.message, cases[i].fragment), "'%s' lacks '%s'", err.message, cases[i].fragment);
    }
}

Test(export, corrections_of_different_ranks_are_refused)
{
    struct fixture f;
    size_t count;
    set_up(&f, INT4_G32);
    correct(&f, (const int64_t[]){RANK, RANK + 1});
    free(tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
        &count, NULL));
    cr_expect(strstr(tiny_message, "layers.1.mlp.down_proj: found a correction of rank 4, expected 3"), "%s",
              tiny_message);
    cr_expect_not(exists(&f, ""));
}

static void refused(const char *scheme, const char *module, const char *what, const char *fragment)
{
    struct fixture f;
    size_t count;
    set_up(&f, scheme);
    if (module)
        fix_ranges(&f, module, what, 0.0f);
    free(tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
        &count, NULL));
    cr_expect(strstr(tiny_message, fragment), "%s: '%s' lacks '%s'", scheme, tiny_message, fragment);
    cr_expect_not(exists(&f, ""));
}

Test(export, a_missing_range_and_a_format_without_layout_are_refused)
{
    refused("\"fp8\"", NULL, NULL, "q_proj.input_scale");
    refused("\"fp8\"", "attn_in", "input_scale", "attn_in.input_scale is 0");
    refused("\"nvfp4\"", NULL, NULL, "q_proj.input_global_scale");
    refused("\"int8-kv-int8\"", NULL, NULL, "self_attn.k_scale");
    refused("\"mxint8\"", NULL, NULL, "has no mxint8; use mxfp8 or int8");
    refused("\"mxfp6\"", NULL, NULL, "use mxfp6_e2m3, mxfp4 or mxfp8");
    refused("{\"weights\": {\"format\": \"int4\", \"group\": 40, \"ragged\": true}}", NULL, NULL,
            "last group is short");
}

Test(export, nothing_appears_when_the_run_ends_early)
{
    struct fixture f;
    size_t count;
    set_up(&f, INT4_G32);
    qp_unit_free(f.units[TINY_UNITS - 1]);
    free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS - 1},
                   &count, NULL));
    cr_expect_not(exists(&f, ""));
    expect_nothing_beside(&f);
}

Test(export, an_output_that_exists_is_left_alone)
{
    struct fixture f;
    struct qp_error err;
    size_t count;
    set_up(&f, INT4_G32);
    cr_assert_eq(qp_make_folders(f.output, &err), 0);
    free(tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
        &count, NULL));
    cr_expect(strstr(tiny_message, "exists"), "%s", tiny_message);
    cr_expect_not(exists(&f, "/config.json"));
}

Test(export, the_same_units_make_the_same_digest_and_other_codes_another)
{
    json_t *reports[3] = {NULL};
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        size_t count;
        set_up(&f, i < 2 ? INT4_G32 : "{\"weights\": {\"format\": \"int4\", \"group\": 16}}");
        free(tiny_call(&qp_stage_desc, &(struct tiny_call){.context = f.context, .units = f.units, .count = TINY_UNITS},
                       &count, &reports[i]));
    }
    const char *digests[3];
    for (int i = 0; i < 3; i++)
        digests[i] =
            json_string_value(json_object_get(json_array_get(json_object_get(reports[i], "outputs"), 0), "digest"));
    cr_expect_str_eq(digests[0], digests[1]);
    cr_expect_str_neq(digests[0], digests[2]);
    for (int i = 0; i < 3; i++)
        json_decref(reports[i]);
}
