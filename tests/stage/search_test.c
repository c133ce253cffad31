/* search: AWQ finds a planted outlier channel, and never makes a site worse. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/network/model_unit.h"
#include "libstage/solvers/quality.h"
#include "libstage/solvers/scales.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

/* Sites after norms only: folds into rows would change the metric of the sites that own them. */
#define NORM_SITES \
    "{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"ignore\": [\"lm_head\", \"*.o_proj\", \"*.down_proj\"]}"
#define INT4_G32 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"
enum { OUTLIER = 11 };

/* Makes channel OUTLIER of a site 30 times as loud as it was, in all statistics. */
static void plant_outlier(struct qp_unit *unit, const char *site)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.0.%s.hessian", site);
    struct qp_tensor *h = qp_unit_find(unit, name);
    int64_t n = h->shape[0];
    for (int64_t i = 0; i < n; i++) {
        ((float *)h->data)[OUTLIER * n + i] *= 30.0f;
        ((float *)h->data)[i * n + OUTLIER] *= 30.0f;
    }
    snprintf(name, sizeof name, "model.layers.0.%s.absmean", site);
    ((float *)qp_unit_find(unit, name)->data)[OUTLIER] *= 30.0f;
}

Test(search, awq_protects_a_loud_channel)
{
    const char *forms[] = {"plain", "duo", "both"};
    for (int f = 0; f < 3; f++) {
        struct qp_unit *units[TINY_UNITS], **out;
        size_t count;
        char params[128];
        snprintf(params, sizeof params, "{\"method\": \"awq\", \"clip\": false, \"form\": \"%s\"}", forms[f]);
        tiny_units(INT4_G32, true, units);
        plant_outlier(units[2], "mlp_in");
        out = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS},
                        &count, NULL);
        struct qp_tensor *fold = qp_unit_find(out[2], "model.layers.0.mlp_in.fold");
        cr_assert_not_null(fold, "%s: no scales were found", forms[f]);
        const float *s = fold->data;
        for (int64_t i = 0; i < fold->elements; i++)
            cr_expect(i == OUTLIER || s[i] < s[OUTLIER], "%s: channel %lld has %g, the loud one %g", forms[f],
                      (long long)i, s[i], s[OUTLIER]);
        tiny_free(out, count);
        free(out);
    }
}

Test(search, heads_that_share_value_rows_get_one_scale)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, true, units);
    plant_outlier(units[2], "attn_out");
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"awq\"}", .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    struct qp_tensor *fold = qp_unit_find(out[2], "model.layers.0.attn_out.fold");
    cr_assert_not_null(fold);
    const float *s = fold->data; /* heads 0 and 1 read value head 0, heads 2 and 3 value head 1; 16 channels each */
    for (int pair = 0; pair < 2; pair++)
        for (int d = 0; d < 16; d++)
            cr_expect_float_eq(s[pair * 32 + d], s[pair * 32 + 16 + d], 1e-6f);
    cr_expect_gt(s[OUTLIER], 1.0f);
    tiny_free(out, count);
    free(out);
}

/* The site loss of layer 0's linears of `site` with the given fold and the scales that the unit carries, or else of
 * their ranges. */
static double loss_of(struct qp_unit *const *units, int site)
{
    struct qp_error err;
    struct qp_model model;
    struct qp_block block;
    double loss = 0.0;
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("ref"), units[2], &block, &err), 0, "%s", err.message);
    for (int i = 0; i < QP_LINEARS; i++) {
        const struct qp_linear *d = &model.arch.layer_types[0]->linears[i];
        const struct qp_linear_scheme *scheme = qp_model_scheme(&model, 0, i);
        int64_t rows = d->out, in = d->in;
        if (d->site != site)
            continue;
        int64_t group = qp_spec_group(&scheme->weights, in);
        float *w = malloc((size_t)(4 * rows * in + in * in) * sizeof *w), *scale = w + rows * in;
        float *q = scale + rows * in, *scratch = q + rows * in, *h = scratch + rows * in;
        int8_t *zero = calloc((size_t)(rows * in), 1);
        uint8_t *codes = malloc((size_t)(rows * in));
        cr_assert_eq(qp_block_weight(&block, i, true, w, &err), 0, "%s", err.message);
        cr_assert_eq(qp_block_hessian(&block, site, h, &err), 0, "%s", err.message);
        struct qp_quantized given = {.format = scheme->weights.format};
        int chosen = qp_block_scales(&block, i, scheme, &given, &err);
        cr_assert_geq(chosen, 0, "%s", err.message);
        if (chosen) {
            memcpy(scale, given.scale, (size_t)qp_scale_count(rows, in, group) * sizeof *scale);
            if (given.zero)
                memcpy(zero, given.zero, (size_t)qp_scale_count(rows, in, group));
        } else {
            float largest = 0.0f;
            for (int64_t k = 0; k < rows * in; k++)
                largest = fmaxf(largest, fabsf(w[k]));
            if (given.format.scale_dtype == QP_F8_E4M3)
                given.format.global = qp_global_scale(largest, false);
            block.kernels->qparams(&given.format, rows, in, group, w, scale, zero);
        }
        block.kernels->quantize(
            &(struct qp_grouped){&given.format, rows, in, group, scale, given.format.symmetric ? NULL : zero}, w,
            codes);
        block.kernels->dequantize(
            &(struct qp_grouped){&given.format, rows, in, group, scale, given.format.symmetric ? NULL : zero}, codes,
            q);
        qp_difference(rows * in, q, w, q);
        loss += qp_site_loss(block.kernels, rows, in, q, h, scratch);
        free(w);
        free(zero);
        free(codes);
    }
    qp_model_close(&model);
    return loss;
}

/* Leaves of layer 0's H of mlp_in the blocks of `group` channels, so that what groups lose adds up. */
static void keep_blocks(struct qp_unit *unit, int64_t group)
{
    struct qp_tensor *h = qp_unit_find(unit, "model.layers.0.mlp_in.hessian");
    int64_t n = h->shape[0];
    for (int64_t i = 0; i < n * n; i++)
        if (i / n / group != i % n / group)
            ((float *)h->data)[i] = 0.0f;
}

/* The loss of layer 0's mlp_in after a search with `params`; `group`: channels whose Hessians are kept, 0: all. */
static double searched_blocks(const char *scheme, const char *params, bool outlier, int64_t group)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(scheme, true, units);
    if (outlier)
        plant_outlier(units[2], "mlp_in");
    if (group > 0)
        keep_blocks(units[2], group);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    double loss = loss_of(out, QP_SITE_MLP_IN);
    tiny_free(out, count);
    free(out);
    return loss;
}

/* Identity is a candidate: no site may get worse. Scales that are found for a loud channel were found for being better.
 */
static double searched(const char *scheme, const char *params, bool outlier)
{
    return searched_blocks(scheme, params, outlier, 0);
}

Test(search, no_site_gets_worse)
{
    static const char *const ways[] = {"{\"method\": \"awq\"}", "{\"method\": \"awq\", \"form\": \"both\"}",
                                       "{\"method\": \"joint\"}"};
    for (int i = 0; i < 3; i++)
        for (int outlier = 0; outlier < 2; outlier++) {
            double before = searched(NORM_SITES, NULL, outlier), after = searched(NORM_SITES, ways[i], outlier);
            cr_expect(after <= before * (1 + 1e-4) && (!outlier || after != before), "%s: %g, was %g", ways[i], after,
                      before);
        }
}

/* A group's range is a candidate of its own, judged by its block of H. */
Test(search, clipped_scales_travel_and_never_lose)
{
    static const char *const schemes[] = {
        INT4_G32, "{\"weights\": {\"format\": \"int3\", \"group\": 32, \"symmetric\": false}}",
        "{\"weights\": {\"format\": \"nvfp4\"}}", "{\"weights\": {\"format\": \"mxfp4\"}}",
        "{\"weights\": {\"format\": \"int8\", \"granularity\": \"channel\"}}"};
    static const int64_t groups[] = {32, 32, 16, 32, 0};
    for (int i = 0; i < 5; i++) {
        const char *clip = "{\"method\": \"clip\", \"metric\": \"block\"}";
        double ranges = searched_blocks(schemes[i], NULL, false, groups[i]);
        double clipped = searched_blocks(schemes[i], clip, false, groups[i]);
        cr_expect(clipped > 0.0 && clipped <= ranges * (1 + 1e-4) && clipped != ranges, "%s: %g, ranges alone %g",
                  schemes[i], clipped, ranges);
    }
}

Test(search, clip_without_scales_makes_no_fold_and_fused_linears_share_their_global_scale)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("{\"weights\": {\"format\": \"nvfp4\"}}", true, units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"clip\"}", .units = units, .count = TINY_UNITS},
                    &count, NULL);
    cr_expect_null(qp_unit_find(out[2], "model.layers.0.mlp_in.fold"));
    struct qp_tensor *gate = qp_unit_find(out[2], "model.layers.0.mlp.gate_proj.weight_global_scale");
    struct qp_tensor *up = qp_unit_find(out[2], "model.layers.0.mlp.up_proj.weight_global_scale");
    cr_assert(gate && up);
    cr_expect_eq(*(float *)gate->data, *(float *)up->data);
    tiny_free(out, count);
    free(out);
}

Test(search, none_passes_everything_as_it_is)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(INT4_G32, false, units);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS}, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    cr_expect_null(qp_unit_find(out[2], "model.layers.0.mlp_in.fold"));
    tiny_free(out, count);
    free(out);
}
