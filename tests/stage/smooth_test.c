/* smooth: SmoothQuant's scales by the formula, folded where they belong. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

static const float *find(const struct qp_unit *unit, const char *name)
{
    struct qp_tensor *t = qp_unit_find(unit, name);
    cr_assert_not_null(t, "%s is missing", name);
    return t->data;
}

Test(smooth, scales_follow_the_formula)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    const double alpha = 0.75;
    tiny_units("\"int8\"", true, units);
    out =
        tiny_call(&qp_stage_desc,
                  &(struct tiny_call){
                      .params = "{\"method\": \"smoothquant\", \"alpha\": 0.75}", .units = units, .count = TINY_UNITS},
                  &count, NULL);
    const float *fold = find(out[2], "model.layers.0.mlp_in.fold");
    const float *absmax = find(out[2], "model.layers.0.mlp_in.absmax");
    const float *gate = find(out[2], "model.layers.0.mlp.gate_proj.weight");
    const float *up = find(out[2], "model.layers.0.mlp.up_proj.weight");
    for (int j = 0; j < TINY_HIDDEN; j++) {
        double w = 0.0;
        for (int r = 0; r < TINY_FFN; r++)
            w = fmax(w, fmax(fabs(gate[r * TINY_HIDDEN + j]), fabs(up[r * TINY_HIDDEN + j])));
        double expected = pow(absmax[j], alpha) / pow(w, 1.0 - alpha);
        cr_expect_lt(fabs(fold[j] / expected - 1.0), 1e-5, "channel %d: %g, expected %g", j, fold[j], expected);
    }
    tiny_free(out, count);
    free(out);
}

Test(smooth, touches_only_sites_after_norms)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", true, units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"smoothquant\"}", .units = units, .count = TINY_UNITS},
                    &count, NULL);
    cr_expect_not_null(qp_unit_find(out[3], "model.layers.1.attn_in.fold"));
    cr_expect_null(qp_unit_find(out[3], "model.layers.1.attn_out.fold"));
    cr_expect_null(qp_unit_find(out[3], "model.layers.1.mlp_out.fold"));
    tiny_free(out, count);
    free(out);
}

Test(smooth, log_equalization_follows_its_formula_at_every_site)
{
    static const char *const sites[] = {"attn_in", "mlp_in", "mlp_out"};
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    char name[128];
    tiny_units("\"int8\"", true, units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = "{\"method\": \"log-equalization\", \"sites\": \"all\"}",
                                        .units = units,
                                        .count = TINY_UNITS},
                    &count, NULL);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "model.layers.0.%s.absmax", sites[i]);
        const float *a = find(out[2], name);
        snprintf(name, sizeof name, "model.layers.0.%s.fold", sites[i]);
        const float *fold = find(out[2], name);
        for (int j = 0; j < (i < 2 ? TINY_HIDDEN : TINY_FFN); j++)
            cr_expect_lt(fabs(fold[j] / (a[j] / log2(2.0 + a[j])) - 1.0), 1e-5, "%s, channel %d", sites[i], j);
    }
    cr_expect_not_null(qp_unit_find(out[2], "model.layers.0.attn_out.fold"));
    tiny_free(out, count);
    free(out);
}

enum { SAMPLES = 32 };

/* Gives every site of layer 0 that stands after a norm samples, channel j `loudness` ^ (j mod 5) loud, and the
 * maxima that belong to them. */
static void plant_samples(struct qp_unit *unit, double loudness)
{
    static const char *const sites[] = {"attn_in", "mlp_in"};
    int64_t shape[2] = {SAMPLES, TINY_HIDDEN};
    for (int s = 0; s < 2; s++) {
        char name[128];
        struct qp_error err;
        struct qp_tensor *t;
        snprintf(name, sizeof name, "model.layers.0.%s.absmax", sites[s]);
        float *absmax = qp_unit_find(unit, name)->data;
        snprintf(name, sizeof name, "model.layers.0.%s.samples", sites[s]);
        cr_assert_eq(qp_tensor_new(name, QP_F32, 2, shape, &t, &err), 0);
        float *x = t->data;
        tiny_random(5, SAMPLES * TINY_HIDDEN, 1.0f, x);
        memset(absmax, 0, TINY_HIDDEN * sizeof *absmax);
        for (int i = 0; i < SAMPLES * TINY_HIDDEN; i++) {
            x[i] *= (float)pow(loudness, i % TINY_HIDDEN % 5);
            absmax[i % TINY_HIDDEN] = fmaxf(absmax[i % TINY_HIDDEN], fabsf(x[i]));
        }
        cr_assert_eq(qp_unit_put(unit, t, &err), 0);
    }
}

/* Makes columns j of a linear of layer 0 `loudness` ^ (j mod 5) loud. */
static void plant_weights(struct qp_unit *unit, const char *module, double loudness)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.0.%s.weight", module);
    struct qp_tensor *t = qp_unit_find(unit, name);
    for (int64_t i = 0; i < t->elements; i++)
        ((float *)t->data)[i] *= (float)pow(loudness, i % TINY_HIDDEN % 5);
}

/* The alpha that explains layer 0's scales at mlp_in, from two channels that are apart by `x` and `w`. */
static double chosen_alpha(const char *scheme, double x, double w)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units(scheme, true, units);
    qp_unit_free(units[3]);
    plant_samples(units[2], x);
    plant_weights(units[2], "mlp.gate_proj", w);
    plant_weights(units[2], "mlp.up_proj", w);
    struct qp_unit *layer[] = {units[0], units[2]};
    out = tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){.params = "{\"method\": \"smoothquant\", \"grid\": 5}", .units = layer, .count = 2}, &count,
        NULL);
    const float *fold = find(out[1], "model.layers.0.mlp_in.fold");
    const float *a = find(out[1], "model.layers.0.mlp_in.absmax");
    double columns[2] = {0.0, 0.0}; /* channels 4 and 5 */
    for (int linear = 0; linear < 2; linear++) {
        const float *weight =
            find(out[1], linear ? "model.layers.0.mlp.gate_proj.weight" : "model.layers.0.mlp.up_proj.weight");
        for (int r = 0; r < TINY_FFN; r++)
            for (int c = 0; c < 2; c++)
                columns[c] = fmax(columns[c], fabs(weight[r * TINY_HIDDEN + 4 + c]));
    }
    double la = log(a[4] / a[5]), lw = log(columns[0] / columns[1]), ls = log(fold[4] / fold[5]);
    tiny_free(out, count);
    free(out);
    qp_unit_free(units[1]);
    qp_unit_free(units[4]);
    qp_unit_free(units[5]);
    return (ls + lw) / (la + lw);
}

Test(smooth, the_search_finds_where_the_difficulty_is)
{
    /* only weights are coarse and uneven: all difficulty is theirs; only activations are: it is theirs */
    double weights = chosen_alpha("{\"weights\": {\"format\": \"int4\"}}", 1.0, 4.0);
    double activations =
        chosen_alpha("{\"weights\": {\"format\": \"int8\"}, \"activations\": {\"format\": \"int4\"}}", 4.0, 1.0);
    cr_expect_leq(weights, 0.25 + 1e-3, "%g", weights);
    cr_expect_geq(activations, 0.75 - 1e-3, "%g", activations);
}

/* Whether a fold is kept for a gate whose weights repeat `values`, which its format holds as they are. */
static bool is_folded(const char *format, int n, const float *values)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    qp_auto_free char *scheme = qp_format(
        "{\"weights\": {\"format\": \"bf16\"}, \"rules\": [{\"match\": \"*.gate_proj\", \"weights\": {%s}}]}", format);
    tiny_units(scheme, true, units);
    plant_samples(units[2], 1.0);
    struct qp_tensor *gate = qp_unit_find(units[2], "model.layers.0.mlp.gate_proj.weight");
    for (int64_t i = 0; i < gate->elements; i++)
        ((float *)gate->data)[i] = values[i % n];
    struct qp_unit *layer[] = {units[0], units[2]};
    out = tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){.params = "{\"method\": \"smoothquant\", \"grid\": 5}", .units = layer, .count = 2}, &count,
        NULL);
    bool folded = qp_unit_find(out[1], "model.layers.0.mlp_in.fold") != NULL;
    tiny_free(out, count);
    free(out);
    qp_unit_free(units[1]);
    tiny_free(units + 3, TINY_UNITS - 3);
    return folded;
}

Test(smooth, no_scales_are_kept_where_none_help)
{
    const float signs[] = {-1.0f, 1.0f, 1.0f};
    cr_expect_not(is_folded("\"format\": \"fp8_e4m3\"", 3, signs));
}

/* Numbers of E2M1 up to 4 in each group of 16: held as they are by four over six, not by six alone. */
Test(smooth, the_search_rounds_as_quantize_does)
{
    const float values[] = {4.0f, -3.0f, 1.5f, 2.0f, -0.5f, 3.0f, 1.0f, -2.0f};
    cr_expect_not(is_folded("\"format\": \"nvfp4\", \"four_over_six\": true", 8, values));
    cr_expect(is_folded("\"format\": \"nvfp4\"", 8, values));
}

Test(smooth, a_search_without_samples_is_refused)
{
    struct qp_unit *units[TINY_UNITS];
    size_t count;
    tiny_units("\"int8\"", true, units);
    cr_assert_null(tiny_call(&qp_stage_desc,
                             &(struct tiny_call){.params = "{\"method\": \"smoothquant\", \"grid\": 5}",
                                                 .units = units,
                                                 .count = TINY_UNITS,
                                                 .expected = QP_ERR_INPUT},
                             &count, NULL));
    cr_expect(strstr(tiny_message, "model.layers.0.attn_in.samples"), "%s", tiny_message);
}

Test(smooth, none_passes_everything_as_it_is)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS}, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    cr_expect_null(qp_unit_find(out[2], "model.layers.0.attn_in.fold"));
    tiny_free(out, count);
    free(out);
}
