/* quantize: which scales end up in the unit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define LAYER "model.layers.0."
#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"

/* The layer's unit after quantization; `before` (may be NULL) edits the units. */
static struct qp_unit **quantize(const char *scheme, bool hessians, const char *params,
                                 void (*before)(struct qp_unit **units), size_t *count)
{
    struct qp_unit *units[TINY_UNITS];
    tiny_units(scheme, hessians, units);
    if (before)
        before(units);
    return tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, count,
                     NULL);
}

static const struct qp_tensor *tensor(struct qp_unit **out, const char *name)
{
    const struct qp_tensor *t = qp_unit_find(out[2], name);
    cr_assert_not_null(t, "%s is not there", name);
    return t;
}

static float first(struct qp_unit **out, const char *name)
{
    return *(const float *)tensor(out, name)->data;
}

static void release(struct qp_unit **out, size_t count)
{
    tiny_free(out, count);
    free(out);
}

static float absmax(struct qp_unit **out, const char *name)
{
    const struct qp_tensor *t = tensor(out, name);
    float largest = 0.0f;
    for (int64_t i = 0; i < t->elements; i++)
        largest = fmaxf(largest, fabsf(((const float *)t->data)[i]));
    return largest;
}

Test(quantize_scales, nvfp4_linears_of_a_site_share_their_global_scale)
{
    const char *methods[] = {"{\"method\": \"rtn\"}", "{\"method\": \"gptq\"}", "{\"method\": \"hqq\"}"};
    for (int i = 0; i < 3; i++) {
        size_t count;
        struct qp_unit **out = quantize("{\"weights\": {\"format\": \"nvfp4\"}}", true, methods[i], NULL, &count);
        float q = absmax(out, LAYER "self_attn.q_proj.weight"), k = absmax(out, LAYER "self_attn.k_proj.weight");
        float v = absmax(out, LAYER "self_attn.v_proj.weight"), o = absmax(out, LAYER "self_attn.o_proj.weight");
        float global = first(out, LAYER "self_attn.q_proj.weight_global_scale");
        cr_expect_eq(global, 2688.0f / fmaxf(q, fmaxf(k, v)));
        cr_expect_eq(global, first(out, LAYER "self_attn.k_proj.weight_global_scale"));
        cr_expect_eq(global, first(out, LAYER "self_attn.v_proj.weight_global_scale"));
        cr_expect_eq(first(out, LAYER "self_attn.o_proj.weight_global_scale"), 2688.0f / o);
        cr_expect_eq(first(out, LAYER "mlp.gate_proj.weight_global_scale"),
                     first(out, LAYER "mlp.up_proj.weight_global_scale"));
        release(out, count);
    }
}

/* Below 256 * 6 / absmax, whichever method; one linear of the site that has it decides for all. */
Test(quantize_scales, four_over_six_has_a_smaller_global_scale)
{
    const char *schemes[] = {
        "{\"weights\": {\"format\": \"nvfp4\", \"four_over_six\": true}}",
        "{\"weights\": {\"format\": \"nvfp4\"}, \"rules\": [{\"match\": \"*.k_proj\", \"weights\": "
        "{\"format\": \"nvfp4\", \"four_over_six\": true}}]}"};
    const char *methods[] = {"{\"method\": \"rtn\", \"scales\": \"minmax\"}", "{\"method\": \"gptq\"}"};
    for (int i = 0; i < 4; i++) {
        size_t count;
        struct qp_unit **out = quantize(schemes[i / 2], true, methods[i % 2], NULL, &count);
        float q = absmax(out, LAYER "self_attn.q_proj.weight"), k = absmax(out, LAYER "self_attn.k_proj.weight");
        float v = absmax(out, LAYER "self_attn.v_proj.weight"), down = absmax(out, LAYER "mlp.down_proj.weight");
        float global = first(out, LAYER "self_attn.k_proj.weight_global_scale");
        cr_expect_eq(global, 1536.0f / fmaxf(q, fmaxf(k, v)), "%s", schemes[i / 2]);
        cr_expect_eq(global, first(out, LAYER "self_attn.q_proj.weight_global_scale"));
        cr_expect_eq(first(out, LAYER "mlp.down_proj.weight_global_scale"), (i < 2 ? 1536.0f : 2688.0f) / down);
        release(out, count);
    }
}

/* Sum of squares of what rounding to nearest changes. */
static double rounding_error(const char *scheme, const char *params)
{
    size_t count;
    struct qp_unit **out = quantize(scheme, true, params, NULL, &count);
    const struct qp_kernels *k = qp_kernels_open("cpu");
    const struct qp_tensor *w = tensor(out, LAYER "mlp.up_proj.weight"),
                           *scale = tensor(out, LAYER "mlp.up_proj.weight_scale"),
                           *codes = tensor(out, LAYER "mlp.up_proj.weight_codes");
    struct qp_number_format format = {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E4M3};
    format.global = first(out, LAYER "mlp.up_proj.weight_global_scale");
    float *back = malloc((size_t)w->elements * sizeof *back);
    k->dequantize(&(struct qp_grouped){&format, w->shape[0], w->shape[1], 16, scale->data, NULL}, codes->data, back);
    double sum = 0.0;
    for (int64_t i = 0; i < w->elements; i++)
        sum += pow((double)back[i] - ((const float *)w->data)[i], 2);
    free(back);
    release(out, count);
    return sum;
}

/* Six is a candidate of each group. */
Test(quantize_scales, four_over_six_rounds_no_worse)
{
    const char *minmax = "{\"method\": \"rtn\", \"scales\": \"minmax\"}";
    double six = rounding_error("{\"weights\": {\"format\": \"nvfp4\"}}", minmax);
    double four = rounding_error("{\"weights\": {\"format\": \"nvfp4\", \"four_over_six\": true}}", minmax);
    cr_expect(four < six, "four over six %g, six %g", four, six);
}

/* Of the least sums of powers the one of squares has the least sum of squares. */
Test(quantize_scales, the_norm_says_what_is_least)
{
    const char *nvfp4 = "{\"weights\": {\"format\": \"nvfp4\"}}";
    double squares = rounding_error(nvfp4, "{\"method\": \"rtn\", \"scales\": \"mse\", \"norm\": 2}");
    double usual = rounding_error(nvfp4, "{\"method\": \"rtn\", \"scales\": \"mse\"}");
    double eighth = rounding_error(nvfp4, "{\"method\": \"rtn\", \"scales\": \"mse\", \"norm\": 8}");
    cr_expect(squares <= usual && squares <= eighth && usual != eighth, "%g, %g, %g", squares, usual, eighth);
}

Test(quantize_scales, fp8_tensors_that_run_as_one_share_their_scale_unless_told_not_to)
{
    const char *scheme = "{\"weights\": {\"format\": \"fp8_e4m3\", \"granularity\": \"tensor\"}}";
    size_t count;
    struct qp_unit **out = quantize(scheme, false, "{\"share\": false}", NULL, &count);
    float q = first(out, LAYER "self_attn.q_proj.weight_scale"), k = first(out, LAYER "self_attn.k_proj.weight_scale");
    float v = first(out, LAYER "self_attn.v_proj.weight_scale"), largest = fmaxf(q, fmaxf(k, v));
    cr_expect(q != k || k != v);
    release(out, count);

    out = quantize(scheme, false, "{}", NULL, &count);
    cr_expect_eq(first(out, LAYER "self_attn.q_proj.weight_scale"), largest);
    cr_expect_eq(first(out, LAYER "self_attn.k_proj.weight_scale"), largest);
    cr_expect_eq(first(out, LAYER "self_attn.v_proj.weight_scale"), largest);
    release(out, count);
}

static struct qp_tensor *put_scales(struct qp_unit **units)
{
    struct qp_error err;
    struct qp_tensor *t;
    const int64_t shape[2] = {TINY_HIDDEN, TINY_HIDDEN / 32};
    cr_assert_eq(qp_tensor_new(LAYER "self_attn.q_proj.weight_scale", QP_F32, 2, shape, &t, &err), 0);
    for (int64_t i = 0; i < t->elements; i++)
        ((float *)t->data)[i] = 0.03125f;
    cr_assert_eq(qp_unit_put(units[2], t, &err), 0);
    return t;
}

static void give_scales(struct qp_unit **units)
{
    put_scales(units);
}

static void give_a_bad_scale(struct qp_unit **units)
{
    ((float *)put_scales(units)->data)[3] = 0.0f;
}

Test(quantize_scales, those_that_search_chose_are_kept)
{
    const char *params[] = {"{}", "{\"method\": \"gptq\"}", "{\"scales\": \"minmax\"}", "{\"method\": \"hqq\"}"};
    for (int i = 0; i < 4; i++) {
        size_t count;
        struct qp_unit **out = quantize(INT4_G32, true, params[i], give_scales, &count);
        const struct qp_tensor *t = tensor(out, LAYER "self_attn.q_proj.weight_scale");
        int kept = 0;
        for (int64_t j = 0; j < t->elements; j++)
            kept += ((const float *)t->data)[j] == 0.03125f;
        cr_expect(i < 2 ? kept == t->elements : kept < t->elements / 2, "%s: %d kept", params[i], kept);
        release(out, count);
    }
}

Test(quantize_scales, a_scale_of_zero_is_refused)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, true, units);
    give_a_bad_scale(units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{}", .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
                    &count, NULL);
    cr_expect(strstr(tiny_message, "self_attn.q_proj"), "%s", tiny_message);
    release(out, count);
}

static void same_scales(const char *a, bool hessians_a, const char *b, bool hessians_b, bool same)
{
    size_t count_a, count_b;
    struct qp_unit **x = quantize(INT4_G32, hessians_a, a, NULL, &count_a);
    struct qp_unit **y = quantize(INT4_G32, hessians_b, b, NULL, &count_b);
    const struct qp_tensor *s = tensor(x, LAYER "mlp.up_proj.weight_scale"),
                           *t = tensor(y, LAYER "mlp.up_proj.weight_scale");
    cr_expect_eq(memcmp(s->data, t->data, s->bytes) == 0, same, "%s and %s", a, b);
    release(x, count_a);
    release(y, count_b);
}

Test(quantize_scales, auto_is_weighted_where_inputs_are_known_and_minmax_elsewhere)
{
    same_scales("{}", true, "{\"scales\": \"weighted\"}", true, true);
    same_scales("{}", false, "{\"scales\": \"minmax\"}", true, true);
    same_scales("{}", true, "{\"scales\": \"minmax\"}", true, false);
    same_scales("{\"scales\": \"mse\"}", false, "{\"scales\": \"minmax\"}", false, false);
    same_scales("{\"scales\": \"hessian\"}", true, "{\"scales\": \"weighted\"}", true, false);
    same_scales("{\"scales\": \"mse\", \"steps\": 1}", false, "{\"scales\": \"minmax\"}", false, true);
}

Test(quantize_scales, reestimate_and_refit_change_them)
{
    const char *natural = "{\"method\": \"gptq\", \"order\": \"natural\"}";
    same_scales(natural, true, "{\"method\": \"gptq\", \"order\": \"natural\", \"reestimate\": true}", true, false);
    same_scales(natural, true, "{\"method\": \"gptq\", \"order\": \"natural\", \"refit\": true}", true, false);
    same_scales(natural, true, "{\"method\": \"gptq\", \"order\": \"natural\", \"coordinate_descent\": 0}", true, true);
}

static void refuse(const char *params, const char *word)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, true, units);
    out =
        tiny_call(&qp_stage_desc,
                  &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
                  &count, NULL);
    cr_expect(strstr(tiny_message, word), "%s", tiny_message);
    release(out, count);
}

Test(quantize_scales, what_does_not_go_together_is_refused)
{
    refuse("{\"method\": \"gptq\", \"reestimate\": true}", "order");
    refuse("{\"method\": \"rtn\", \"asymmetric\": 0.5}", "coordinate_descent");
    refuse("{\"method\": \"gptq\", \"asymmetric\": 0.5}", "asymmetry");
}
