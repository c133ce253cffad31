/* validate: what it measures, and the gate. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/network/model_unit.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define CONTEXT "{\"data\": {\"synthetic\": true, \"samples\": 6, \"length\": 32, \"seed\": 5}}"

static json_t *validate(const char *scheme, bool hessians, const char *params, const char *context, int expected)
{
    struct qp_unit *units[TINY_UNITS], **out;
    json_t *report = NULL;
    size_t count;
    tiny_units(scheme, hessians, units);
    tiny_quantize(units);
    out =
        tiny_call(&qp_stage_desc,
                  &(struct tiny_call){
                      .params = params, .context = context, .units = units, .count = TINY_UNITS, .expected = expected},
                  &count, &report);
    cr_expect_eq(count, expected == 0 ? TINY_UNITS : 0);
    tiny_free(out, count);
    free(out);
    return report;
}

static double metric(const json_t *report, const char *name)
{
    return json_real_value(json_object_get(json_object_get(report, "metrics"), name));
}

static double perplexity(const json_t *report, const char *which)
{
    return json_real_value(json_object_get(json_object_get(json_object_get(report, "metrics"), "perplexity"), which));
}

Test(validate, eight_bits_are_close_and_two_are_not)
{
    json_t *eight =
        validate("{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}}", false, NULL, CONTEXT, 0);
    json_t *two = validate("{\"weights\": {\"format\": \"int2\", \"group\": 32}}", false, NULL, CONTEXT, 0);
    cr_expect_eq(perplexity(eight, "original"), perplexity(two, "original"));
    cr_expect_gt(metric(eight, "kl_divergence"), 0.0);
    cr_expect_gt(metric(two, "kl_divergence"), metric(eight, "kl_divergence"), "errors are 85 times as large");
    cr_expect_geq(metric(eight, "top1_agreement"), metric(two, "top1_agreement"));
    cr_expect_lt(fabs(perplexity(eight, "quantized") / perplexity(eight, "original") - 1.0), 0.1);
    json_decref(eight);
    json_decref(two);
}

Test(validate, activation_quantization_is_simulated)
{
    json_t *weights =
        validate("{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}}", false, NULL, CONTEXT, 0);
    json_t *both = validate("{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}, "
                            "\"activations\": {\"format\": \"int4\", \"granularity\": \"token\", \"dynamic\": true}}",
                            false, NULL, CONTEXT, 0);
    cr_expect_gt(metric(both, "kl_divergence"), metric(weights, "kl_divergence"), "steps are 17 times as large");
    json_decref(weights);
    json_decref(both);
}

Test(validate, the_gate_stops_the_run_before_its_end)
{
    json_t *report = validate("{\"weights\": {\"format\": \"int4\", \"granularity\": \"channel\"}}", false,
                              "{\"max_perplexity_increase\": \"0.001%\"}", CONTEXT, QP_ERR_GATE);
    cr_expect(strstr(tiny_message, "perplexity rose"), "%s", tiny_message);
    json_decref(report);
}

Test(validate, without_data_only_the_linears_are_judged)
{
    json_t *report = validate("{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true, NULL, NULL, 0);
    const json_t *linears = json_object_get(report, "linears");
    cr_expect_null(json_object_get(report, "metrics"));
    cr_assert_eq(json_array_size(linears), (size_t)(TINY_LAYERS * QP_LINEARS));
    const json_t *first = json_array_get(linears, 0);
    double loss = json_real_value(json_object_get(first, "site_loss"));
    cr_expect_str_eq(json_string_value(json_object_get(first, "name")), "model.layers.0.self_attn.q_proj");
    cr_expect_gt(loss, 0.0);
    cr_expect_float_eq(json_real_value(json_object_get(first, "site_loss_rtn")) / loss, 1.0, 1e-9);
    /* a uniform error of step / sqrt(12) against weights that fill +-3 deviations in 16 steps: about 19 dB */
    double sqnr = json_real_value(json_object_get(first, "sqnr_db"));
    cr_expect(sqnr > 16.0 && sqnr < 24.0, "%g dB", sqnr);
    json_decref(report);
}

/* Every kind of scale: the baseline is rounding with the ranges' scales, which is what tiny_quantize does. */
Test(validate, rounding_loses_what_the_report_says_it_would)
{
    static const char *const weights[] = {"\"format\": \"int4\", \"group\": 32, \"symmetric\": false",
                                          "\"format\": \"fp8_e4m3\", \"granularity\": \"tensor\"",
                                          "\"format\": \"fp8_e4m3\", \"block\": [24, 40]",
                                          "\"format\": \"nvfp4\"",
                                          "\"format\": \"mxfp4\"",
                                          "\"format\": \"mxint8\""};
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        char scheme[128];
        size_t l;
        json_t *linear;
        snprintf(scheme, sizeof scheme, "{\"weights\": {%s}}", weights[i]);
        json_t *report = validate(scheme, true, NULL, NULL, 0);
        json_array_foreach(json_object_get(report, "linears"), l, linear) {
            double loss = json_real_value(json_object_get(linear, "site_loss"));
            cr_expect_gt(loss, 0.0);
            cr_expect_eq(json_real_value(json_object_get(linear, "site_loss_rtn")), loss, "%s", weights[i]);
        }
        cr_expect_eq(json_array_size(json_object_get(report, "linears")), TINY_LAYERS * QP_LINEARS);
        json_decref(report);
    }
}

static json_t *with_numbers(const char *scheme, const char *site_number, float value)
{
    struct qp_unit *units[TINY_UNITS], **out;
    struct qp_model model;
    struct qp_error err;
    json_t *report = NULL;
    size_t count;
    tiny_units(scheme, false, units);
    tiny_quantize(units);
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    for (int u = 2; u < 2 + TINY_LAYERS; u++) {
        struct qp_block block;
        cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("ref"), units[u], &block, &err), 0);
        for (int s = 0; s < QP_SITES; s++)
            cr_assert_eq(
                qp_block_set_number(&block, model.arch.layer_types[0]->sites[s].name, site_number, value, NULL, &err),
                0);
        cr_assert_eq(qp_block_set_number(&block, "kv", "key_scale", value, NULL, &err), 0);
        cr_assert_eq(qp_block_set_number(&block, "kv", "value_scale", value, NULL, &err), 0);
    }
    qp_model_close(&model);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.context = CONTEXT, .units = units, .count = TINY_UNITS},
                    &count, &report);
    tiny_free(out, count);
    free(out);
    return report;
}

/* A scale a hundred times too small clips nearly everything. */
Test(validate, fixed_ranges_are_simulated)
{
    static const char *const schemes[] = {
        "{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int8\", \"dynamic\": false}}",
        "{\"weights\": {\"format\": \"int8\"}, \"kv_cache\": {\"format\": \"int8\"}}"};
    for (size_t i = 0; i < 2; i++) {
        json_t *wide = with_numbers(schemes[i], "input_scale", 0.2f);
        json_t *narrow = with_numbers(schemes[i], "input_scale", 0.002f);
        cr_expect_gt(metric(narrow, "kl_divergence"), metric(wide, "kl_divergence"), "%s: %g, %g", schemes[i],
                     metric(narrow, "kl_divergence"), metric(wide, "kl_divergence"));
        json_decref(wide);
        json_decref(narrow);
    }
}

Test(validate, a_gate_without_data_is_an_error)
{
    json_t *report = validate("{\"weights\": {\"format\": \"int4\", \"group\": 32}}", false,
                              "{\"max_perplexity_increase\": 0.05}", NULL, QP_ERR_INPUT);
    cr_expect(strstr(tiny_message, "data.evaluation"), "%s", tiny_message);
    json_decref(report);
}

Test(validate, a_linear_that_is_worse_than_rounded_is_named)
{
    struct qp_unit *units[TINY_UNITS], **out;
    json_t *report = NULL;
    size_t count;
    tiny_units("{\"weights\": {\"format\": \"int4\", \"group\": 32}}", true, units);
    tiny_quantize(units);
    struct qp_tensor *codes = qp_unit_find(units[3], "model.layers.1.mlp.up_proj.weight_codes");
    cr_assert_not_null(codes);
    memset(codes->data, 0, 32);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS}, &count, &report);
    const json_t *warnings = json_object_get(report, "warnings"), *first = json_array_get(warnings, 0);
    cr_assert_eq(json_array_size(warnings), 1);
    cr_expect_str_eq(json_string_value(json_object_get(first, "code")), "site-loss-worse");
    cr_expect_str_eq(json_string_value(json_object_get(first, "where")), "model.layers.1.mlp.up_proj");
    tiny_free(out, count);
    free(out);
    json_decref(report);
}
