/* quantize with a low-rank correction: what is left of the site losses, and of what was planted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/network/model_unit.h"
#include "libstage/solvers/quality.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define INT3_G32 "{\"weights\": {\"format\": \"int3\", \"group\": 32}}"
#define NVFP4 "{\"weights\": {\"format\": \"nvfp4\"}, \"activations\": {\"format\": \"nvfp4\"}}"

/* What the linear loses with its correction, if it has one. */
static double loss_of_linear(const struct qp_model *model, const struct qp_block *block, int linear)
{
    struct qp_error err;
    struct qp_quantized q;
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out, in = d->in;
    float *w = malloc((size_t)(3 * rows * in + in * in) * sizeof *w);
    float *read = w + rows * in, *scratch = read + rows * in, *h = scratch + rows * in;
    cr_assert_eq(qp_block_quantized(block, linear, qp_model_scheme(model, block->layer, linear), &q, &err), 1);
    cr_assert_eq(qp_block_weight(block, linear, true, w, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_hessian(block, d->site, h, &err), 0, "%s", err.message);
    block->kernels->dequantize(&(struct qp_grouped){&q.format, rows, in, q.group, q.scale, q.zero}, q.codes, read);
    cr_assert_eq(qp_block_add_low_rank(block, linear, read, &err), 0, "%s", err.message);
    qp_difference(rows * in, read, w, read);
    double loss = qp_site_loss(block->kernels, rows, in, read, h, scratch);
    free(w);
    return loss;
}

static void losses_of_units(struct qp_unit **units, double losses[TINY_LAYERS][QP_LINEARS])
{
    struct qp_error err;
    struct qp_model model;
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    for (int layer = 0; layer < TINY_LAYERS; layer++) {
        struct qp_block block;
        cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("ref"), units[2 + layer], &block, &err), 0);
        for (int l = 0; l < QP_LINEARS; l++)
            losses[layer][l] = loss_of_linear(&model, &block, l);
    }
    qp_model_close(&model);
}

/* Makes every linear of the layers a matrix of rank 3 with a little noise. */
static void plant(struct qp_unit **units, float noise)
{
    enum { RANK = 3 };
    for (int u = 2; u < 2 + TINY_LAYERS; u++)
        for (size_t t = 0; t < units[u]->count; t++) {
            struct qp_tensor *w = units[u]->tensors[t];
            if (!strstr(w->name, "_proj.weight"))
                continue;
            int64_t rows = w->shape[0], cols = w->shape[1];
            float *b = malloc((size_t)((rows + cols) * RANK) * sizeof *b), *a = b + rows * RANK, *v = w->data;
            tiny_random((uint64_t)(u + 10 * (int)t), (rows + cols) * RANK, 0.5f, b);
            tiny_random((uint64_t)(u + 20 * (int)t), w->elements, noise, v);
            for (int64_t i = 0; i < w->elements; i++)
                for (int k = 0; k < RANK; k++)
                    v[i] += b[i / cols * RANK + k] * a[k * cols + i % cols];
            free(b);
        }
}

/* Sum over all linears, and each by itself. */
static double losses_of_model(const char *params, const char *scheme, bool planted,
                              double losses[TINY_LAYERS][QP_LINEARS])
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    double sum = 0.0;
    tiny_units(scheme, true, units);
    if (planted)
        plant(units, 0.002f);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    losses_of_units(out, losses);
    for (int i = 0; i < TINY_LAYERS * QP_LINEARS; i++)
        sum += losses[i / QP_LINEARS][i % QP_LINEARS];
    tiny_free(out, count);
    free(out);
    return sum;
}

static double losses_of(const char *params, const char *scheme, double losses[TINY_LAYERS][QP_LINEARS])
{
    return losses_of_model(params, scheme, false, losses);
}

static double planted_loss(const char *params, const char *scheme)
{
    double losses[TINY_LAYERS][QP_LINEARS];
    return losses_of_model(params, scheme, true, losses);
}

/* `errors` corrects the same codes: the nearest matrix of rank 4, in the metric of H, is no farther than nothing, and
 * that of rank 8 no farther than that of rank 4. */
Test(quantize_low_rank, errors_corrected_lose_no_more_than_without)
{
    static const struct {
        const char *scheme, *method;
    } cases[] = {{INT3_G32, "gptq"},
                 {"{\"weights\": {\"format\": \"int2\", \"group\": 32}}", "gptq"},
                 {"{\"weights\": {\"format\": \"int4\", \"group\": 32, \"symmetric\": false}}", "gptq"},
                 {"{\"weights\": {\"format\": \"nvfp4\"}}", "gptq"},
                 {"{\"weights\": {\"format\": \"mxfp4\"}}", "gptq"},
                 {"{\"weights\": {\"format\": \"fp8_e4m3\", \"granularity\": \"tensor\"}}", "gptq"},
                 {INT3_G32, "rtn"},
                 {INT3_G32, "hqq"}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double without[TINY_LAYERS][QP_LINEARS], with[TINY_LAYERS][QP_LINEARS];
        for (int i = 0; i < 3; i++) {
            char params[160];
            snprintf(params, sizeof params,
                     "{\"method\": \"%s\", \"scales\": \"weighted\", \"low_rank\": %d, \"low_rank_fit\": "
                     "\"errors\"}",
                     cases[c].method, 4 * i);
            losses_of(params, cases[c].scheme, i == 0 ? without : with);
            for (int l = 0; i > 0 && l < TINY_LAYERS * QP_LINEARS; l++) {
                double *was = &without[l / QP_LINEARS][l % QP_LINEARS], is = with[l / QP_LINEARS][l % QP_LINEARS];
                cr_expect(is > 0 && is <= *was * (1 + 1e-3), "%s %s, linear %d, rank %d: %g of %g", cases[c].method,
                          cases[c].scheme, l, 4 * i, is, *was);
                *was = is;
            }
        }
    }
}

/* What each fit buys is a matter of measurement (tests/bench/accuracy); here, that they are different ways. */
Test(quantize_low_rank, rounds_and_fits_are_different_ways)
{
    double each[TINY_LAYERS][QP_LINEARS];
    double without = losses_of("{\"method\": \"gptq\"}", INT3_G32, each);
    double outputs = losses_of("{\"method\": \"gptq\", \"low_rank\": 6}", INT3_G32, each);
    double rounds = losses_of("{\"method\": \"gptq\", \"low_rank\": 6, \"low_rank_rounds\": 3}", INT3_G32, each);
    double weights =
        losses_of("{\"method\": \"gptq\", \"low_rank\": 6, \"low_rank_fit\": \"weights\"}", INT3_G32, each);
    double errors = losses_of("{\"method\": \"gptq\", \"low_rank\": 6, \"low_rank_fit\": \"errors\"}", INT3_G32, each);
    cr_expect_leq(errors, without * (1 + 1e-3), "%g of %g", errors, without);
    cr_expect(outputs != weights && outputs != errors && weights != errors, "%g, %g, %g", outputs, weights, errors);
    cr_expect_neq(rounds, outputs);
}

/* Weights of rank 3, but for a 250th: nothing else is left to lose, by any method. */
Test(quantize_low_rank, takes_over_what_was_planted)
{
    const char *schemes[] = {INT3_G32, NVFP4};
    for (int i = 0; i < 2; i++) {
        double without = planted_loss("{\"method\": \"gptq\"}", schemes[i]);
        double with = planted_loss("{\"method\": \"gptq\", \"low_rank\": 3}", schemes[i]);
        double free_of_data =
            planted_loss("{\"method\": \"rtn\", \"scales\": \"minmax\", \"low_rank\": 3}", schemes[i]);
        cr_expect_lt(with, 0.002 * without, "%s: %g of %g", schemes[i], with, without);
        cr_expect_lt(free_of_data, 0.01 * without, "%s: %g of %g", schemes[i], free_of_data, without);
    }
}

Test(quantize_low_rank, works_without_statistics)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT3_G32, false, units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"low_rank\": 2}", .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    const struct qp_tensor *a = qp_unit_find(out[2], "model.layers.0.mlp.down_proj.low_rank_a");
    const struct qp_tensor *b = qp_unit_find(out[2], "model.layers.0.mlp.down_proj.low_rank_b");
    cr_assert(a && b);
    cr_expect(a->dtype == QP_F32 && a->shape[0] == 2 && a->shape[1] == TINY_FFN);
    cr_expect(b->dtype == QP_F32 && b->shape[0] == TINY_HIDDEN && b->shape[1] == 2);
    tiny_free(out, count);
    free(out);
}

/* Codes that are to serve without the correction are those of a run that has none. */
Test(quantize_low_rank, errors_leaves_the_codes_alone)
{
    const char *name = "model.layers.1.self_attn.q_proj.weight_codes";
    struct qp_unit *units[TINY_UNITS], **out[2];
    size_t count[2];
    for (int i = 0; i < 2; i++) {
        tiny_units(INT3_G32, true, units);
        out[i] = tiny_call(
            &qp_stage_desc,
            &(struct tiny_call){
                .params = i ? "{\"method\": \"gptq\", \"scales\": \"weighted\", \"low_rank\": 4, \"low_rank_fit\": "
                              "\"errors\"}"
                            : "{\"method\": \"gptq\", \"scales\": \"weighted\"}",
                .units = units,
                .count = TINY_UNITS},
            &count[i], NULL);
    }
    const struct qp_tensor *plain = qp_unit_find(out[0][3], name), *with = qp_unit_find(out[1][3], name);
    cr_expect_arr_eq(with->data, plain->data, plain->bytes);
    for (int i = 0; i < 2; i++) {
        tiny_free(out[i], count[i]);
        free(out[i]);
    }
}

static void refused(const char *params, const char *word)
{
    struct qp_unit *units[TINY_UNITS];
    size_t count;
    tiny_units(INT3_G32, true, units);
    tiny_call(&qp_stage_desc,
              &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
              &count, NULL);
    cr_expect(strstr(tiny_message, word), "%s", tiny_message);
}

Test(quantize_low_rank, refuses_what_makes_no_sense)
{
    refused("{\"method\": \"gptq\", \"low_rank\": 33}", "low_rank: found 33, expected at most 32");
    refused("{\"method\": \"gptq\", \"low_rank\": 4, \"asymmetric\": 0.5}", "asymmetric");
}
