/* calibrate: statistics are those of the network's real activations. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/model/data.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

#define DATA "{\"synthetic\": true, \"samples\": 5, \"length\": 24, \"seed\": 3}"
static const char *const everything[] = {"second_moment", "absmax", "absmean", "min", "max", NULL};

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
    out = tiny_call(&qp_stage_desc, NULL, "{\"data\": " DATA "}", everything, units, TINY_UNITS, 0, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    int64_t tokens = first_inputs(out, &x);
    const float *h = find(out[2], "model.layers.0.attn_in.second_moment");
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
            cr_expect_float_eq(h[i * TINY_HIDDEN + j], expected, 2e-3, "H[%d, %d] = %g, expected %g", i, j,
                               h[i * TINY_HIDDEN + j], expected);
        }
    }
    cr_expect_eq(json_integer_value(json_object_get(out[2]->attrs, "tokens")), tokens);
    free(x);
    tiny_free(out, count);
    free(out);
}

Test(calibrate, every_site_of_every_layer_gets_what_was_asked_for)
{
    static const char *const wants[] = {"absmax", NULL};
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(&qp_stage_desc, NULL, "{\"data\": " DATA "}", wants, units, TINY_UNITS, 0, &count, NULL);
    for (int l = 0; l < TINY_LAYERS; l++) {
        static const char *const sites[] = {"attn_in", "attn_out", "mlp_in", "mlp_out"};
        for (int s = 0; s < 4; s++) {
            char name[128];
            snprintf(name, sizeof name, "model.layers.%d.%s.absmax", l, sites[s]);
            cr_expect_gt(find(out[2 + l], name)[0], 0.0f);
            snprintf(name, sizeof name, "model.layers.%d.%s.second_moment", l, sites[s]);
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
    out = tiny_call(&qp_stage_desc, NULL, NULL, NULL, units, TINY_UNITS, 0, &count, NULL);
    cr_assert_eq(count, TINY_UNITS);
    cr_expect_eq(out[2]->count, tensors);
    tiny_free(out, count);
    free(out);
}
