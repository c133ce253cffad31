/* export: what is written is what came in, whole or not at all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"

struct fixture {
    char folder[64], output[128], context[256];
    struct qp_unit *units[TINY_UNITS];
};

static void set_up(struct fixture *f, const char *scheme)
{
    strcpy(f->folder, tiny_folder());
    snprintf(f->output, sizeof f->output, "%s/out", f->folder);
    snprintf(f->context, sizeof f->context, "{\"output\": \"%s\"}", f->output);
    tiny_units(scheme, false, f->units);
    json_object_set_new(f->units[0]->attrs, "path", json_string(f->folder)); /* side files are looked for here */
    tiny_quantize(f->units);
}

static bool exists(const struct fixture *f, const char *suffix)
{
    char path[256];
    snprintf(path, sizeof path, "%s%s", f->output, suffix);
    return qp_exists(path);
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
    free(tiny_call(&qp_stage_desc, NULL, f.context, NULL, f.units, TINY_UNITS, 0, &count, &report));
    cr_assert_eq(qp_safetensors_open(f.output, &file, &err), 0, "%s", err.message);
    struct qp_tensor *packed = qp_safetensors_find(file, "model.layers.0.mlp.up_proj.weight_packed");
    cr_assert_not_null(packed);
    int8_t *back = malloc((size_t)codes->elements);
    qp_kernels_open("ref")->unpack(4, TINY_FFN, TINY_HIDDEN, packed->data, back);
    cr_expect_arr_eq(back, codes->data, (size_t)codes->elements);
    cr_expect_not_null(qp_safetensors_find(file, "model.embed_tokens.weight"));
    cr_expect_not_null(qp_safetensors_find(file, "model.norm.weight"));
    cr_expect_null(qp_safetensors_find(file, "lm_head.weight"), "a tied head was written");
    cr_expect_not(exists(&f, ".partial"));
    const json_t *output = json_array_get(json_object_get(report, "outputs"), 0);
    cr_expect_str_eq(json_string_value(json_object_get(output, "path")), f.output);
    cr_expect_eq(strlen(json_string_value(json_object_get(output, "digest"))), 32);
    free(back);
    qp_tensor_unref(codes);
    qp_safetensors_close(file);
    json_decref(report);
    qp_remove_tree(f.folder, NULL);
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
    free(tiny_call(&qp_stage_desc, NULL, f.context, NULL, f.units, TINY_UNITS, 0, &count, NULL));
    snprintf(path, sizeof path, "%s/config.json", f.output);
    cr_assert_eq(qp_read_json(path, 1 << 20, &config, &err), 0, "%s", err.message);
    const json_t *q = json_object_get(config, "quantization_config");
    cr_expect_str_eq(json_string_value(json_object_get(q, "quant_method")), "compressed-tensors");
    const json_t *ignore = json_object_get(q, "ignore");
    cr_assert_eq(json_array_size(ignore), 2);
    cr_expect_str_eq(json_string_value(json_array_get(ignore, 0)), "lm_head");
    cr_expect_str_eq(json_string_value(json_array_get(ignore, 1)), "model.layers.1.mlp.down_proj");
    json_decref(config);
    qp_remove_tree(f.folder, NULL);
}

Test(export, nothing_appears_when_the_run_ends_early)
{
    struct fixture f;
    size_t count;
    set_up(&f, INT4_G32);
    qp_unit_free(f.units[TINY_UNITS - 1]);
    free(tiny_call(&qp_stage_desc, NULL, f.context, NULL, f.units, TINY_UNITS - 1, 0, &count, NULL));
    cr_expect_not(exists(&f, ""));
    cr_expect_not(exists(&f, ".partial"));
    qp_remove_tree(f.folder, NULL);
}

Test(export, an_output_that_exists_is_left_alone)
{
    struct fixture f;
    struct qp_error err;
    size_t count;
    set_up(&f, INT4_G32);
    cr_assert_eq(qp_make_folders(f.output, &err), 0);
    free(tiny_call(&qp_stage_desc, NULL, f.context, NULL, f.units, TINY_UNITS, QP_ERR_INPUT, &count, NULL));
    cr_expect(strstr(tiny_message, "exists"), "%s", tiny_message);
    cr_expect_not(exists(&f, "/config.json"));
    qp_remove_tree(f.folder, NULL);
}

Test(export, the_same_units_make_the_same_digest_and_other_codes_another)
{
    json_t *reports[3] = {NULL};
    for (int i = 0; i < 3; i++) {
        struct fixture f;
        size_t count;
        set_up(&f, i < 2 ? INT4_G32 : "{\"weights\": {\"format\": \"int4\", \"group\": 16}}");
        free(tiny_call(&qp_stage_desc, NULL, f.context, NULL, f.units, TINY_UNITS, 0, &count, &reports[i]));
        qp_remove_tree(f.folder, NULL);
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
