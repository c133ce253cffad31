/* quantize: GPTQ against what is known of it, and the cases around it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/network/model_unit.h"
#include "libstage/solvers/quality.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"

#define SLACK (1 + 1e-4) /* of sums in float32 */

/* Sum over the layers' quantized linears of the site loss. */
static double total_loss(struct qp_unit **units, size_t count)
{

    struct qp_error err;
    struct qp_model model;
    double sum = 0.0;
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    for (size_t u = 2; u + 2 < count; u++) {
        struct qp_block block;
        cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("ref"), units[u], &block, &err), 0, "%s", err.message);
        for (int i = 0; i < QP_LINEARS; i++) {
            const struct qp_linear *d = &model.arch.layer_types[0]->linears[i];
            int64_t rows = d->out, in = d->in;
            float *w = malloc((size_t)(3 * rows * in + in * in) * sizeof *w);
            float *q = w + rows * in, *scratch = q + rows * in, *h = scratch + rows * in;
            struct qp_quantized quantized;
            cr_assert_eq(qp_block_quantized(&block, i, qp_model_scheme(&model, block.layer, i), &quantized, &err), 1,
                         "%s", err.message);
            cr_assert_eq(qp_block_weight(&block, i, true, w, &err), 0, "%s", err.message);
            cr_assert_eq(qp_block_hessian(&block, d->site, h, &err), 0, "%s", err.message);
            block.kernels->dequantize(
                &(struct qp_grouped){&quantized.format, rows, in, quantized.group, quantized.scale, quantized.zero},
                quantized.codes, q);
            qp_difference(rows * in, q, w, q);
            sum += qp_site_loss(block.kernels, rows, in, q, h, scratch);
            free(w);
        }
    }
    qp_model_close(&model);
    return sum;
}

static double loss_of(const char *params, const char *scheme)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(scheme, true, units);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    cr_assert_eq(count, TINY_UNITS);
    double loss = total_loss(out, count);
    tiny_free(out, count);
    free(out);
    return loss;
}

/* The descent starts, row by row, from the better of the codes it gets and those of rounding to nearest, and never
 * loses from there; orders are different ways. */
Test(quantize, descents_lose_no_more_than_what_they_start_from)
{
    const char *schemes[] = {INT4_G32,
                             "{\"weights\": {\"format\": \"int3\", \"granularity\": \"channel\"}}",
                             "{\"weights\": {\"format\": \"int4\", \"group\": 32, \"symmetric\": false}}",
                             "{\"weights\": {\"format\": \"int8\", \"granularity\": \"tensor\"}}",
                             "{\"weights\": {\"format\": \"fp8_e4m3\", \"granularity\": \"channel\"}}",
                             "{\"weights\": {\"format\": \"fp8_e4m3\", \"block\": [32, 32]}}",
                             "{\"weights\": {\"format\": \"fp8_e5m2\", \"granularity\": \"tensor\"}}",
                             "{\"weights\": {\"format\": \"nvfp4\"}}",
                             "{\"weights\": {\"format\": \"nvfp4\", \"four_over_six\": true}}",
                             "{\"weights\": {\"format\": \"mxfp4\"}}",
                             "{\"weights\": {\"format\": \"mxfp6\"}}",
                             "{\"weights\": {\"format\": \"mxfp8\"}}",
                             "{\"weights\": {\"format\": \"mxint8\"}}"};
    for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) {
        double rounding = loss_of("{\"method\": \"rtn\"}", schemes[i]);
        double natural =
            loss_of("{\"method\": \"gptq\", \"order\": \"natural\", \"coordinate_descent\": 0}", schemes[i]);
        double ordered =
            loss_of("{\"method\": \"gptq\", \"order\": \"activation\", \"coordinate_descent\": 0}", schemes[i]);
        double descended = loss_of("{\"method\": \"gptq\"}", schemes[i]);
        double alone = loss_of("{\"method\": \"rtn\", \"coordinate_descent\": 4}", schemes[i]);
        cr_expect_gt(rounding, 0.0);
        cr_expect(natural != rounding && ordered != rounding && natural != ordered, "%s: %g, %g, %g", schemes[i],
                  natural, ordered, rounding);
        cr_expect_leq(descended, ordered * SLACK, "%s: with coordinate descent %g, gptq %g", schemes[i], descended,
                      ordered);
        cr_expect_leq(descended, rounding * SLACK, "%s: with coordinate descent %g, rtn %g", schemes[i], descended,
                      rounding);
        cr_expect_leq(alone, rounding * SLACK, "%s: rtn and coordinate descent %g, rtn %g", schemes[i], alone,
                      rounding);
        cr_expect_neq(alone, rounding, "%s: coordinate descent does nothing", schemes[i]);
    }
}

/* Replaces H by a diagonal matrix in every layer. */
static void make_diagonal(struct qp_unit **units)
{
    for (int u = 2; u < 2 + TINY_LAYERS; u++)
        for (size_t t = 0; t < units[u]->count; t++) {
            struct qp_tensor *h = units[u]->tensors[t];
            if (!strstr(h->name, "hessian"))
                continue;
            for (int64_t i = 0; i < h->elements; i++)
                if (i % (h->shape[0] + 1) != 0)
                    ((float *)h->data)[i] = 0.0f;
        }
}

static struct qp_tensor *codes_of(struct qp_unit *unit, size_t n)
{
    for (size_t t = 0; t < unit->count; t++)
        if (strstr(unit->tensors[t]->name, "weight_codes") && n-- == 0)
            return unit->tensors[t];
    return NULL;
}

static struct qp_unit **quantized(const char *params, size_t *count)
{
    struct qp_unit *units[TINY_UNITS];
    tiny_units(INT4_G32, true, units);
    return tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, count,
                     NULL);
}

/* Sums in another order decide a code between two now and then, and with it the rest of its row: most rows are equal.
 */
Test(quantize, the_block_size_is_a_matter_of_speed)
{
    size_t count_a, count_b;
    struct qp_unit **a = quantized("{\"method\": \"gptq\", \"coordinate_descent\": 0, \"block\": 4096}", &count_a);
    struct qp_unit **b = quantized("{\"method\": \"gptq\", \"coordinate_descent\": 0, \"block\": 7}", &count_b);
    int64_t rows = 0, same = 0;
    for (size_t u = 2; u < 2 + TINY_LAYERS; u++)
        for (size_t n = 0; n < QP_LINEARS; n++) {
            const struct qp_tensor *x = codes_of(a[u], n), *y = codes_of(b[u], n);
            size_t width = (size_t)x->shape[1];
            rows += x->shape[0];
            for (int64_t r = 0; r < x->shape[0]; r++)
                same += memcmp((char *)x->data + (size_t)r * width, (char *)y->data + (size_t)r * width, width) == 0;
        }
    cr_expect_gt(same, rows * 3 / 4, "%d of %d rows", (int)same, (int)rows);
    tiny_free(a, count_a);
    tiny_free(b, count_b);
    free(a);
    free(b);
}

Test(quantize, gptq_with_a_diagonal_hessian_is_rounding)
{
    struct qp_unit *a[TINY_UNITS], *b[TINY_UNITS], **out_a, **out_b;
    size_t count_a, count_b;
    tiny_units(INT4_G32, true, a);
    tiny_units(INT4_G32, true, b);
    make_diagonal(b);
    out_a = tiny_call(&qp_stage_desc,
                      &(struct tiny_call){.params = "{\"method\": \"rtn\"}", .units = a, .count = TINY_UNITS}, &count_a,
                      NULL);
    out_b = tiny_call(&qp_stage_desc,
                      &(struct tiny_call){.params = "{\"method\": \"gptq\"}", .units = b, .count = TINY_UNITS},
                      &count_b, NULL);
    for (size_t u = 2; u < 2 + TINY_LAYERS; u++)
        for (size_t n = 0; n < QP_LINEARS; n++) {
            struct qp_tensor *x = codes_of(out_a[u], n), *y = codes_of(out_b[u], n);
            cr_assert(x && y);
            cr_expect_arr_eq(x->data, y->data, x->bytes, "%s differs", x->name);
        }
    tiny_free(out_a, count_a);
    tiny_free(out_b, count_b);
    free(out_a);
    free(out_b);
}

Test(quantize, a_singular_hessian_raises_the_damping_and_says_so)
{
    struct qp_unit *units[TINY_UNITS], **out;
    json_t *report = NULL;
    size_t count;
    tiny_units(INT4_G32, true, units);
    for (size_t t = 0; t < units[2]->count; t++) {
        struct qp_tensor *h = units[2]->tensors[t];
        if (strstr(h->name, "attn_in.hessian"))
            for (int64_t i = 0; i < h->elements;
                 i++) /* not a Hessian of anything: off the diagonal larger than on it */
                ((float *)h->data)[i] = i % (h->shape[0] + 1) == 0                ? 1.0f
                                        : (i / h->shape[0] + i % h->shape[0]) % 2 ? 0.0f
                                                                                  : 1.02f;
    }
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"gptq\"}", .units = units, .count = TINY_UNITS},
                    &count, &report);
    const json_t *warning = json_array_get(json_object_get(report, "warnings"), 0);
    cr_expect_str_eq(json_string_value(json_object_get(warning, "code")), "damping-raised");
    cr_expect_str_eq(json_string_value(json_object_get(warning, "where")), "model.layers.0.attn_in");
    json_decref(report);
    tiny_free(out, count);
    free(out);
}

Test(quantize, a_hessian_that_is_not_finite_is_an_error)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, true, units);
    for (size_t t = 0; t < units[3]->count; t++)
        if (strstr(units[3]->tensors[t]->name, "mlp_out.hessian"))
            *(float *)units[3]->tensors[t]->data = INFINITY;
    out = tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){
            .params = "{\"method\": \"gptq\"}", .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
        &count, NULL);
    cr_expect(strstr(tiny_message, "model.layers.1.mlp_out"), "%s", tiny_message);
    tiny_free(out, count);
    free(out);
}

Test(quantize, gptq_without_a_hessian_is_an_error)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, false, units);
    out = tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){
            .params = "{\"method\": \"gptq\"}", .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
        &count, NULL);
    cr_expect(strstr(tiny_message, "hessian"), "%s", tiny_message);
    tiny_free(out, count);
    free(out);
}

Test(quantize, a_column_never_seen_is_rounded_and_not_zeroed)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, true, units);
    for (size_t t = 0; t < units[2]->count; t++) {
        struct qp_tensor *h = units[2]->tensors[t];
        if (strstr(h->name, "attn_in.hessian"))
            for (int64_t i = 0; i < h->shape[0]; i++)
                ((float *)h->data)[5 * h->shape[0] + i] = ((float *)h->data)[i * h->shape[0] + 5] = 0.0f;
    }
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"gptq\"}", .units = units, .count = TINY_UNITS},
                    &count, NULL);
    const struct qp_tensor *codes = codes_of(out[2], 0);
    int used = 0;
    for (int64_t r = 0; r < codes->shape[0]; r++)
        used += ((const int8_t *)codes->data)[r * codes->shape[1] + 5] != 0;
    cr_expect_gt(used, codes->shape[0] / 2);
    tiny_free(out, count);
    free(out);
}

Test(quantize, ignored_linears_get_no_codes)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"ignore\": [\"lm_head\", \"*.down_proj\"]}", true,
               units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"gptq\"}", .units = units, .count = TINY_UNITS},
                    &count, NULL);
    cr_expect_not_null(qp_unit_find(out[2], "model.layers.0.mlp.up_proj.weight_codes"));
    cr_expect_null(qp_unit_find(out[2], "model.layers.0.mlp.down_proj.weight_codes"));
    tiny_free(out, count);
    free(out);
}
