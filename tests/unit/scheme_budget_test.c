/* Budgets: what is read, what is refused, and that what is counted is what the layout stores. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/formats/compressed_size.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/tensor/scheme/budget.h"

static struct qp_scheme *parse(const char *text, struct qp_error *err)
{
    struct qp_scheme *scheme = NULL;
    qp_auto_json json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    cr_assert_not_null(value, "no JSON: %s", text);
    *err = (struct qp_error){0};
    qp_scheme_parse(value, &scheme, err);
    return scheme;
}

static void refused(const char *text, const char *word)
{
    struct qp_error err;
    struct qp_scheme *scheme = parse(text, &err);
    cr_expect_null(scheme, "was accepted: %s", text);
    cr_expect_eq(err.code, QP_ERR_INPUT);
    cr_expect(strstr(err.message, word), "expected '%s' in: %s", word, err.message);
    qp_scheme_free(scheme);
}

#define FROM "\"choose_from\": [\"int4\", {\"weights\": {\"format\": \"int8\"}}]"

Test(scheme_budget, a_budget_is_a_scheme_that_quantizes_nothing_yet)
{
    struct qp_error err;
    struct qp_scheme *s =
        parse("{\"budget\": \"4.5bits\", \"ignore\": [\"*.o_proj\"], \"choose_from\": [\"int4\", "
              "\"int8\", \"bf16\", {\"weights\": {\"format\": \"int3\", \"group\": 32, \"symmetric\": "
              "false}}, {\"name\": \"mine\", \"weights\": {\"format\": \"int6\"}}]}",
              &err);
    cr_assert_not_null(s, "%s", err.message);
    qp_scheme_bind(s, QP_BF16);
    const struct qp_budget *b = s->budget;
    cr_assert_not_null(b);
    cr_expect_eq(b->bits, 4.5);
    cr_expect_eq(b->bytes, 0);
    cr_expect_null(qp_scheme_for(s, "model.layers.0.mlp.up_proj"));
    cr_assert_eq(b->count, 5);
    static const char *const names[] = {"int4", "int8", "bf16", "int3-g32-asym", "mine"};
    for (size_t i = 0; i < 5; i++)
        cr_expect_str_eq(b->candidates[i].name, names[i]);
    cr_expect_eq(b->candidates[0].scheme.weights.group, 128);
    cr_expect(b->candidates[1].scheme.activations.enabled, "the preset int8 has activations");
    cr_expect_not(b->candidates[2].scheme.weights.enabled);
    cr_expect_eq(b->candidates[3].scheme.weights.format.scale_dtype, QP_BF16, "bound to the model's dtype");
    cr_expect(json_object_get(b->candidates[1].linear, "activations"));
    qp_scheme_free(s);
}

Test(scheme_budget, amounts_have_units)
{
    static const struct {
        const char *text;
        double bits;
        uint64_t bytes;
    } amounts[] = {{"5bits", 5, 0},          {"4.25 bits", 4.25, 0}, {"5GB", 0, 5000000000u},  {"1.5 GiB", 0, 3u << 29},
                   {"800MB", 0, 800000000u}, {"64KiB", 0, 65536},    {"2TB", 0, 2000000000000}};
    for (size_t i = 0; i < sizeof amounts / sizeof *amounts; i++) {
        struct qp_error err;
        char text[256];
        snprintf(text, sizeof text, "{\"budget\": \"%s\", " FROM "}", amounts[i].text);
        struct qp_scheme *s = parse(text, &err);
        cr_assert_not_null(s, "%s", err.message);
        cr_expect_eq(s->budget->bits, amounts[i].bits, "%s", amounts[i].text);
        cr_expect_eq(s->budget->bytes, amounts[i].bytes, "%s", amounts[i].text);
        qp_scheme_free(s);
    }
    static const char *const wrong[] = {"4.5", "bits", "0bits", "33bits", "5 pounds", "-5GB", "0GB", "1e400bits", ""};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"budget\": \"%s\", " FROM "}", wrong[i]);
        refused(text, "scheme.budget");
    }
    refused("{\"budget\": 4.5, " FROM "}", "scheme.budget");
}

Test(scheme_budget, mistakes_are_named_where_they_are)
{
    refused("{\"budget\": \"5bits\"}", "scheme.choose_from");
    refused("{\"budget\": \"5bits\", \"choose_from\": [\"int4\"]}", "expected 2 to 16");
    refused("{\"budget\": \"5bits\", \"choose_from\": [\"int4\", \"int44\"]}", "scheme.choose_from[1]");
    refused("{\"budget\": \"5bits\", \"choose_from\": [\"int4\", {\"weights\": {\"format\": \"int4\", \"group\": 0}}]}",
            "scheme.choose_from[1]");
    refused(
        "{\"budget\": \"5bits\", \"choose_from\": [\"int4\", {\"weights\": {\"format\": \"int8\"}, \"rules\": []}]}",
        "rules");
    refused("{\"budget\": \"5bits\", \"choose_from\": [\"int4\", {\"budget\": \"3bits\", " FROM "}]}", "budget");
    refused("{\"budget\": \"5bits\", \"choose_from\": [\"int4\", \"int4\"]}", "another `name`");
    refused("{\"budget\": \"5bits\", \"choose_from\": [\"int4\", \"fp8-kv-fp8\"]}", "KV cache");
    refused("{\"budget\": \"5bits\", \"weights\": {\"format\": \"int4\"}, " FROM "}", "weights");
    refused("{\"choose_from\": [\"int4\", \"int8\"]}", "choose_from");
}

/* ---- sizes ---- */

/* Bytes and number of the tensors that a linear of zeros is packed into. */
static struct qp_stored packed(const struct qp_linear_scheme *scheme, int64_t rows, int64_t cols)
{
    struct qp_error err;
    struct qp_tensor *tensors[QP_COMPRESSED_MAX];
    size_t count;
    int64_t group = qp_spec_group(&scheme->weights, cols);
    float *scale = malloc((size_t)(rows * cols) * sizeof *scale);
    uint8_t *codes = calloc((size_t)(rows * cols), 1);
    int8_t *zero = calloc((size_t)(rows * cols), 1);
    struct qp_quantized q = {scheme->weights.format, rows, cols, group, codes, scale, NULL, NULL, NULL};
    q.format.global = 1.0f;
    for (int64_t i = 0; i < rows * cols; i++)
        scale[i] = 0.5f;
    q.zero = scheme->weights.format.symmetric ? NULL : zero;
    cr_assert_eq(qp_compressed_pack("m", scheme, &q, tensors, &count, &err), 0, "%s", err.message);
    struct qp_stored s = {.tensors = (int)count};
    for (size_t i = 0; i < count; i++) {
        s.bytes += tensors[i]->bytes;
        qp_tensor_unref(tensors[i]);
    }
    free(scale);
    free(codes);
    free(zero);
    return s;
}

Test(scheme_budget, sizes_are_those_of_packed_tensors)
{
    static const char *const formats[] = {
        "{\"weights\": {\"format\": \"int3\", \"group\": 32}}",
        "{\"weights\": {\"format\": \"int4\", \"group\": 32, \"symmetric\": false}}",
        "{\"weights\": {\"format\": \"int5\"}}",
        "{\"weights\": {\"format\": \"int7\", \"granularity\": \"tensor\", \"symmetric\": false}}",
        "{\"weights\": {\"format\": \"int8\", \"symmetric\": false}}",
        "{\"weights\": {\"format\": \"fp8_e4m3\"}}",
        "{\"weights\": {\"format\": \"fp8_e4m3\", \"block\": [16, 32]}}",
        "{\"weights\": {\"format\": \"nvfp4\"}}",
        "{\"weights\": {\"format\": \"mxfp4\"}}",
        "\"int8\"",
        "\"fp8-dynamic\""};
    static const int64_t shapes[][2] = {{64, 96}, {7, 32}, {1, 64}, {33, 320}};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            struct qp_error err;
            struct qp_scheme *s = parse(formats[f], &err);
            cr_assert_not_null(s, "%s", err.message);
            qp_scheme_bind(s, QP_BF16);
            struct qp_stored expected = packed(&s->base, shapes[i][0], shapes[i][1]);
            struct qp_stored found = qp_compressed_stored(&s->base, QP_BF16, shapes[i][0], shapes[i][1]);
            cr_expect_eq(found.bytes, expected.bytes, "%s [%lld, %lld]: counted %llu bytes, packed %llu", formats[f],
                         (long long)shapes[i][0], (long long)shapes[i][1], (unsigned long long)found.bytes,
                         (unsigned long long)expected.bytes);
            cr_expect_eq(found.tensors, expected.tensors, "%s", formats[f]);
            qp_scheme_free(s);
        }
    struct qp_stored plain = qp_compressed_stored(NULL, QP_BF16, 3, 5);
    cr_expect_eq(plain.bytes, 30);
}
