/* calibrate: statistics are those of the network's real activations. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/calibration/data.h"
#include "libstage/calibration/histogram.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define DATA "{\"synthetic\": true, \"samples\": 5, \"length\": 24, \"seed\": 3}"
static const char *const everything[] = {
    "hessian",    "absmax",     "absmean",         "min",       "max", "samples", "histogram", "token_absmax",
    "window_min", "window_max", "block_histogram", "kv_absmax", NULL};

static const float *find(const struct qp_unit *unit, const char *name)
{
    struct qp_tensor *t = qp_unit_find(unit, name);
    cr_assert_not_null(t, "%s is missing", name);
    return t->data;
}

/* The first site's inputs by hand: normalised embeddings of the windows' tokens. */
static int64_t first_inputs(struct qp_unit *const *units, float **x)
{
    struct qp_error err;
    struct qp_windows windows;
    qp_auto_json json_t *spec = json_loads(DATA, 0, NULL);
    cr_assert_eq(qp_windows_load(spec, NULL, TINY_VOCAB, &windows, &err), 0, "%s", err.message);
    int64_t tokens = windows.count * windows.length;
    const float *embedding = find(units[1], "model.embed_tokens.weight");
    const float *gain = find(units[2], "model.layers.0.input_layernorm.weight");
    *x = malloc((size_t)(tokens * TINY_HIDDEN) * sizeof **x);
    for (int64_t t = 0; t < tokens; t++) {
        const float *e = embedding + (int64_t)windows.ids[t] * TINY_HIDDEN;
        double square = 0.0;
        for (int i = 0; i < TINY_HIDDEN; i++)
            square += (double)e[i] * e[i];
        for (int i = 0; i < TINY_HIDDEN; i++)
            (*x)[t * TINY_HIDDEN + i] = (float)(e[i] / sqrt(square / TINY_HIDDEN + 1e-5) * gain[i]);
    }
    qp_windows_free(&windows);
    return tokens;
}

Test(calibrate, statistics_of_the_first_site_match_a_computation_by_hand)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    float *x;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){
                        .context = "{\"data\": " DATA "}", .wants = everything, .units = units, .count = TINY_UNITS},
                    &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    int64_t tokens = first_inputs(out, &x);
    const float *h = find(out[2], "model.layers.0.attn_in.hessian");
    const float *absmax = find(out[2], "model.layers.0.attn_in.absmax");
    const float *absmean = find(out[2], "model.layers.0.attn_in.absmean");
    for (int i = 0; i < TINY_HIDDEN; i++) {
        double largest = 0.0, sum = 0.0;
        for (int64_t t = 0; t < tokens; t++) {
            largest = fmax(largest, fabs(x[t * TINY_HIDDEN + i]));
            sum += fabs(x[t * TINY_HIDDEN + i]);
        }
        cr_expect_float_eq(absmax[i], largest, 1e-5);
        cr_expect_float_eq(absmean[i], sum / (double)tokens, 1e-5);
        for (int j = 0; j < TINY_HIDDEN; j++) {
            double expected = 0.0;
            for (int64_t t = 0; t < tokens; t++)
                expected += (double)x[t * TINY_HIDDEN + i] * x[t * TINY_HIDDEN + j];
            float entry = tiny_hessian(h, TINY_HIDDEN, i, j);
            cr_expect_float_eq(entry, expected, 2e-3, "H[%d, %d] = %g, expected %g", i, j, entry, expected);
        }
    }
    cr_expect_eq(json_integer_value(json_object_get(out[2]->attrs, "tokens")), tokens);
    free(x);
    tiny_free(out, count);
    free(out);
}

struct first {
    struct qp_unit **out;
    size_t count;
    int64_t tokens;
    float *x; /* [tokens, TINY_HIDDEN] */
};

static struct first first_site(void)
{
    struct first f;
    struct qp_unit *units[TINY_UNITS];
    tiny_units("\"int8\"", false, units);
    f.out = tiny_call(&qp_stage_desc,
                      &(struct tiny_call){
                          .context = "{\"data\": " DATA "}", .wants = everything, .units = units, .count = TINY_UNITS},
                      &f.count, NULL);
    f.tokens = first_inputs(f.out, &f.x);
    return f;
}

static void drop(struct first *f)
{
    free(f->x);
    tiny_free(f->out, f->count);
    free(f->out);
}

Test(calibrate, samples_are_spread_over_the_text)
{
    struct first f = first_site();
    const struct qp_tensor *samples = qp_unit_find(f.out[2], "model.layers.0.attn_in.samples");
    cr_assert_not_null(samples);
    cr_assert_eq(samples->shape[0], f.tokens, "120 tokens are fewer than 256: all of them");
    cr_assert_eq(samples->shape[1], TINY_HIDDEN);
    for (int64_t i = 0; i < samples->elements; i++)
        cr_assert_float_eq(((const float *)samples->data)[i], f.x[i], 1e-5, "element %lld", (long long)i);
    drop(&f);
}

Test(calibrate, many_tokens_are_sampled_evenly)
{
    static const char *const wants[] = {"samples", NULL};
    static const char data[] = "{\"data\": {\"synthetic\": true, \"samples\": 12, \"length\": 128, \"seed\": 3}}";
    struct qp_error err;
    struct qp_windows windows;
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.context = data, .wants = wants, .units = units, .count = TINY_UNITS}, &count,
                    NULL);
    const struct qp_tensor *samples = qp_unit_find(out[2], "model.layers.0.attn_in.samples");
    cr_assert_eq(samples->shape[0], 256);
    qp_auto_json json_t *spec =
        json_loads("{\"synthetic\": true, \"samples\": 12, \"length\": 128, \"seed\": 3}", 0, NULL);
    cr_assert_eq(qp_windows_load(spec, NULL, TINY_VOCAB, &windows, &err), 0);
    const float *embedding = find(out[1], "model.embed_tokens.weight");
    const float *gain = find(out[2], "model.layers.0.input_layernorm.weight");
    for (int64_t k = 0; k < 256; k++) { /* 1536 tokens: one of six, in the middle; the direction tells which */
        const float *e = embedding + (int64_t)windows.ids[6 * k + 3] * TINY_HIDDEN;
        const float *x = (const float *)samples->data + k * TINY_HIDDEN;
        for (int i = 1; i < TINY_HIDDEN; i++)
            cr_assert_float_eq(x[i] * e[0] * gain[0], x[0] * e[i] * gain[i], 1e-5, "sample %lld", (long long)k);
    }
    qp_windows_free(&windows);
    tiny_free(out, count);
    free(out);
}

Test(calibrate, histograms_count_every_token_in_its_bin)
{
    struct first f = first_site();
    const float *counts = find(f.out[2], "model.layers.0.attn_in.histogram");
    for (int i = 0; i < TINY_HIDDEN; i++) {
        double seen = 0.0;
        for (int b = 0; b < QP_LOG_BINS; b++) {
            double low = b ? exp2((b - 320) / 16.0) : 0.0, high = exp2((b - 319) / 16.0), expected = 0.0, loose = 0.0;
            for (int64_t t = 0; t < f.tokens; t++) {
                double a = fabs(f.x[t * TINY_HIDDEN + i]);
                expected += a >= low && a < high;
                loose += a >= low * (1 - 1e-5) && a < high * (1 + 1e-5); /* the norm rounds differently */
            }
            double got = counts[(int64_t)i * QP_LOG_BINS + b];
            cr_expect(got == expected || (got <= loose && loose != expected), "channel %d, bin %d: %g, expected %g", i,
                      b, got, expected);
            seen += got;
        }
        cr_expect_eq(seen, f.tokens);
    }
    drop(&f);
}

Test(calibrate, ranges_of_tokens_and_windows)
{
    struct first f = first_site();
    const struct qp_tensor *windows = qp_unit_find(f.out[2], "model.layers.0.attn_in.window_max");
    cr_assert_not_null(windows);
    cr_assert_eq(windows->shape[0], 5);
    const float *highest = windows->data, *lowest = find(f.out[2], "model.layers.0.attn_in.window_min");
    double sum = 0.0;
    for (int64_t t = 0; t < f.tokens; t++) {
        float most = 0.0f;
        for (int i = 0; i < TINY_HIDDEN; i++)
            most = fmaxf(most, fabsf(f.x[t * TINY_HIDDEN + i]));
        sum += most;
    }
    cr_expect_float_eq(find(f.out[2], "model.layers.0.attn_in.token_absmax")[0], sum / (double)f.tokens, 1e-5);
    for (int64_t w = 0; w < 5; w++)
        for (int i = 0; i < TINY_HIDDEN; i++) {
            float least = INFINITY, most = -INFINITY;
            for (int64_t t = w * 24; t < (w + 1) * 24; t++) {
                least = fminf(least, f.x[t * TINY_HIDDEN + i]);
                most = fmaxf(most, f.x[t * TINY_HIDDEN + i]);
            }
            cr_expect_float_eq(lowest[w * TINY_HIDDEN + i], least, 1e-5);
            cr_expect_float_eq(highest[w * TINY_HIDDEN + i], most, 1e-5);
        }
    drop(&f);
}

Test(calibrate, blocks_of_tokens_are_counted)
{
    struct first f = first_site();
    const float *counts = find(f.out[2], "model.layers.0.attn_in.block_histogram");
    static float expected[QP_BLOCK_BINS];
    double total = 0.0, differing = 0.0;
    qp_block_histogram_add(f.tokens, TINY_HIDDEN, f.x, expected);
    for (int b = 0; b < QP_BLOCK_BINS; b++) {
        total += counts[b];
        differing += fabs((double)counts[b] - expected[b]);
    }
    cr_expect_eq(total, (double)f.tokens * TINY_HIDDEN / QP_BLOCK_COLUMNS);
    cr_expect_leq(differing, 0.1 * total, "%g of %g", differing,
                  total); /* inputs by hand are not the same to the bit */
    drop(&f);
}

/* The largest |x Wᵀ| of each row of `module`'s matrix, after RoPE if rotated. */
static void largest_products(const struct first *f, const char *module, bool rotated, float most[32])
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.0.%s.weight", module);
    const float *w = find(f->out[2], name);
    float y[32];
    memset(most, 0, 32 * sizeof *most);
    for (int64_t t = 0; t < f->tokens; t++) {
        for (int o = 0; o < 32; o++) {
            double sum = 0.0;
            for (int i = 0; i < TINY_HIDDEN; i++)
                sum += (double)w[o * TINY_HIDDEN + i] * f->x[t * TINY_HIDDEN + i];
            y[o] = (float)sum;
        }
        for (int o = 0; o < 32; o++) {
            int head = o / 16, i = o % 16 % 8; /* halves of a head of 16 are rotated as pairs, theta 10000 */
            double angle = (double)(t % 24) * pow(10000.0, -2.0 * i / 16.0);
            float a = y[head * 16 + i], b = y[head * 16 + i + 8];
            double turned = o % 16 < 8 ? a * cos(angle) - b * sin(angle) : b * cos(angle) + a * sin(angle);
            most[o] = fmaxf(most[o], fabsf(rotated ? (float)turned : y[o]));
        }
    }
}

Test(calibrate, ranges_of_a_kv_cache)
{
    struct first f = first_site();
    float keys[32], values[32];
    largest_products(&f, "self_attn.k_proj", true, keys);
    largest_products(&f, "self_attn.v_proj", false, values);
    for (int i = 0; i < 32; i++) {
        cr_expect_float_eq(find(f.out[2], "model.layers.0.kv.key_absmax")[i], keys[i], 1e-4);
        cr_expect_float_eq(find(f.out[2], "model.layers.0.kv.value_absmax")[i], values[i], 1e-4);
    }
    cr_expect_gt(find(f.out[3], "model.layers.1.kv.key_absmax")[0], 0.0f);
    drop(&f);
}

Test(calibrate, every_site_of_every_layer_gets_what_was_asked_for)
{
    static const char *const wants[] = {"absmax", NULL};
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(
        &qp_stage_desc,
        &(struct tiny_call){.context = "{\"data\": " DATA "}", .wants = wants, .units = units, .count = TINY_UNITS},
        &count, NULL);
    for (int l = 0; l < TINY_LAYERS; l++) {
        static const char *const sites[] = {"attn_in", "attn_out", "mlp_in", "mlp_out"};
        for (int s = 0; s < 4; s++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%d.%s.absmax", l, sites[s]);
            cr_expect_gt(find(out[2 + l], name)[0], 0.0f);
            snprintf(name, sizeof name, "model.layers.%d.%s.hessian", l, sites[s]);
            cr_expect_null(qp_unit_find(out[2 + l], name));
        }
    }
    tiny_free(out, count);
    free(out);
}

Test(calibrate, reads_no_data_when_nobody_wants_anything)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    size_t tensors = units[2]->count;
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS}, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    cr_expect_eq(out[2]->count, tensors);
    tiny_free(out, count);
    free(out);
}
