/* calibrate with feedback: statistics are those after the quantized layers, against sums made here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/evaluate.h"
#include "libstage/network/model_unit.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

/* More tokens than are held at once, in windows that do not divide that. */
#define DATA "{\"synthetic\": true, \"samples\": 100, \"length\": 24, \"seed\": 3}"
#define SCHEME                                                               \
    "{\"weights\": {\"format\": \"int4\", \"group\": 32}, \"activations\": " \
    "{\"format\": \"int8\", \"granularity\": \"token\"}}"
enum { LENGTH = 24, TOKENS = 100 * LENGTH, MOST = TINY_FFN, CALLS = 2 * TINY_STEPS };

static const char *const both[] = {"hessian", "asymmetry", NULL};
static const char *const hessian[] = {"hessian", "absmax", NULL};

/* ---- the network, as the test runs it: all tokens at once, with the stage's kernels, as a rounding of activations
 * that falls the other way is no error of the statistics ---- */

struct walk {
    struct qp_model model;
    struct qp_windows windows;
    struct qp_text text;
    struct qp_hidden_states states;
    float *inputs[QP_SITES]; /* [TOKENS, in] of the layer that was seen last */
    int64_t rows[QP_SITES];
};

static void open_walk(const struct qp_unit *model, struct walk *w)
{
    struct qp_error err = {0};
    qp_auto_json json_t *spec = json_loads(DATA, 0, NULL);
    memset(w, 0, sizeof *w);
    cr_assert_eq(qp_model_open(model, &w->model, &err), 0, "%s", err.message);
    cr_assert_eq(qp_model_windows(&w->model, spec, &w->windows, &err), 0, "%s", err.message);
    cr_assert_eq(w->windows.count * w->windows.length, TOKENS);
    cr_assert_eq(qp_text_open(&w->model.arch, &w->windows, &w->text, &err), 0, "%s", err.message);
    cr_assert_eq(qp_hidden_open(&w->windows, TINY_HIDDEN, NULL, &w->states, &err), 0, "%s", err.message);
    for (int i = 0; i < QP_SITES; i++)
        w->inputs[i] = calloc(TOKENS * MOST, sizeof(float));
}

static void close_walk(struct walk *w)
{
    for (int i = 0; i < QP_SITES; i++)
        free(w->inputs[i]);
    qp_hidden_close(&w->states);
    qp_text_close(&w->text);
    qp_windows_free(&w->windows);
    qp_model_close(&w->model);
}

static int keep(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct walk *w = context;
    memcpy(w->inputs[site] + w->rows[site] * in, x, (size_t)(rows * in) * sizeof *x);
    w->rows[site] += rows;
    return 0;
}

static void run_layer(struct walk *w, const struct qp_block *block, enum qp_version version, const struct qp_taps *taps)
{
    struct qp_error err = {0};
    struct qp_layer layer;
    cr_assert_eq(qp_layer_load(block, version, w->model.scheme, &layer, &err), 0, "%s", err.message);
    cr_assert_eq(qp_text_forward(&w->text, &layer, &w->states, taps, &err), 0, "%s", err.message);
    qp_layer_free(&layer);
}

/* What the layer's sites see for the hidden states, which stay as they are: linears that read a site before
 * `site` are quantized, the others are not. */
static void look(struct walk *w, const struct qp_block *original, const struct qp_block *quantized, int site)
{
    struct qp_error err = {0};
    struct qp_layer layer, other;
    float *before = malloc(w->states.bytes);
    struct qp_taps taps = {.site = keep, .context = w};
    memset(w->rows, 0, sizeof w->rows);
    memcpy(before, w->states.x, w->states.bytes);
    cr_assert_eq(qp_layer_load(original, QP_ORIGINAL, NULL, &layer, &err), 0, "%s", err.message);
    cr_assert_eq(qp_layer_load(quantized, QP_QUANTIZED, w->model.scheme, &other, &err), 0, "%s", err.message);
    for (int l = 0; l < QP_LINEARS; l++)
        if (layer.arch->layer_types[0]->linears[l].site < site)
            layer.weight[l] = other.weight[l];
    for (int s = 0; s < site; s++)
        layer.activations[s] = other.activations[s];
    cr_assert_eq(qp_text_forward(&w->text, &layer, &w->states, &taps, &err), 0, "%s", err.message);
    qp_layer_free(&layer);
    qp_layer_free(&other);
    memcpy(w->states.x, before, w->states.bytes);
    free(before);
}

static struct qp_block block_of(const struct walk *w, struct qp_unit *unit)
{
    struct qp_error err = {0};
    struct qp_block block;
    cr_assert_eq(qp_block_of(&w->model.arch, qp_kernels_open("cpu"), unit, &block, &err), 0, "%s", err.message);
    return block;
}

static void begin(struct walk *w, struct qp_unit *embedding, enum qp_version version)
{
    struct qp_error err = {0};
    struct qp_block block = block_of(w, embedding);
    cr_assert_eq(qp_text_embed(&w->text, &block, version, &w->states, &err), 0, "%s", err.message);
}

/* ---- the stage, between both ---- */

/* Feeds the stage `count` units, each of which comes back from `back` before the next; all are taken over. */
static int feed(const char *const *wants, struct qp_unit **forth, struct qp_unit **back, size_t count,
                struct qp_unit ***out, struct qp_error *err)
{
    size_t emitted = 0;
    struct qp_unit *units[CALLS];
    const char *ports[CALLS];
    qp_auto_json json_t *context = json_loads("{\"data\": " DATA "}", 0, NULL);
    for (size_t i = 0; i < count; i++) {
        units[2 * i] = forth[i];
        units[2 * i + 1] = back[i];
        ports[2 * i] = "in";
        ports[2 * i + 1] = "feedback";
    }
    int r = qp_stage_call(
        &qp_stage_desc,
        &(struct qp_call){.context = context, .wants = wants, .units = units, .ports = ports, .count = 2 * count}, out,
        &emitted, NULL, err);
    cr_assert(r < 0 || emitted == count, "what comes back does not go on");
    return r;
}

static struct qp_unit **calibrate(const char *const *wants, size_t *count, struct qp_error *err)
{
    struct qp_unit *forth[TINY_UNITS], *back[TINY_UNITS], **out = NULL;
    tiny_units(SCHEME, false, forth);
    tiny_units(SCHEME, false, back);
    tiny_quantize(back);
    cr_assert_eq(feed(wants, forth, back, TINY_UNITS, &out, err), 0, "%s", err->message);
    *count = TINY_UNITS;
    return out;
}

static bool is_added(const char *name)
{
    return strstr(name, "weight_codes") || strstr(name, "weight_scale") || strstr(name, "weight_zero_point");
}

/* Takes what quantize added for other sites than the step's out of the unit; the last step has it all. */
static void keep_step(struct qp_unit *unit, int layer, int step)
{
    static const char *const linears[][4] = {{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}};
    for (size_t i = unit->count; i-- > 0 && step < QP_SITES;) {
        bool stays = !is_added(unit->tensors[i]->name);
        for (int l = 0; l < 3; l++)
            stays = stays || (linears[step - 1][l] && strstr(unit->tensors[i]->name, linears[step - 1][l]));
        if (!stays)
            qp_unit_remove(unit, unit->tensors[i]->name);
    }
    char codes[128];
    snprintf(codes, sizeof codes, "model.layers.%d.mlp.down_proj.weight_codes", layer);
    cr_assert_eq(qp_unit_find(unit, codes) != NULL, step == QP_SITES);
}

/* The steps as they come back; takes the units over. */
static void take_steps_back(struct qp_unit **units, struct qp_unit *out[TINY_STEPS])
{
    tiny_steps(units, out);
    for (int l = 0; l < TINY_LAYERS; l++)
        for (int step = 1; step <= QP_SITES; step++)
            keep_step(out[2 + l * QP_SITES + step - 1], l, step);
}

static const float *find(const struct qp_unit *unit, int layer, const char *site, const char *what)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, site, what);
    struct qp_tensor *t = qp_unit_find(unit, name);
    cr_assert_not_null(t, "%s is missing", name);
    return t->data;
}

enum part { ALL, LEARNED, HELD };

/* Window 7, 15, ..., 95 of 100 is held out; what is learned from the others counts as much as all would. */
static double share_of(enum part part, int64_t token)
{
    bool held = token / LENGTH % 8 == 7;
    return part == ALL ? 1.0 : part == HELD ? (double)held : held ? 0.0 : 100.0 / 88.0;
}

/* sums[in, in] = sum of (a - minus)ᵀ b over a part of the tokens. */
static void sum_products(enum part part, const float *a, const float *minus, const float *b, int64_t in, double *sums)
{
    memset(sums, 0, (size_t)(in * in) * sizeof *sums);
    for (int64_t t = 0; t < TOKENS; t++)
        for (int64_t i = 0; i < in; i++) {
            double x = share_of(part, t) * ((double)a[t * in + i] - (minus ? (double)minus[t * in + i] : 0.0));
            for (int64_t j = 0; x != 0.0 && j < in; j++)
                sums[i * in + j] += x * b[t * in + j];
        }
}

/* Compares found[in, in] with sum of aᵀ b over a part of the tokens; returns the largest entry. */
static double expect_product(enum part part, const float *found, const float *a, const float *minus, const float *b,
                             int64_t in, const char *what)
{
    static double sums[TINY_FFN * TINY_FFN];
    double largest = 0.0, worst = 0.0;
    sum_products(part, a, minus, b, in, sums);
    for (int64_t i = 0; i < in * in; i++) {
        largest = fmax(largest, fabs(sums[i]));
        worst = fmax(worst, fabs(sums[i] - found[i]));
    }
    cr_expect_leq(worst, 1e-4 * largest + 1e-6, "%s: off by %g of %g", what, worst, largest);
    return largest;
}

static const char *const sites[] = {"attn_in", "attn_out", "mlp_in", "mlp_out"};
static const int64_t widths[] = {TINY_HIDDEN, TINY_HIDDEN, TINY_HIDDEN, TINY_FFN};

/* A packed Hessian, both triangles; until the next call. */
static const float *unpacked(const float *packed, int64_t in)
{
    static float h[TINY_FFN * TINY_FFN];
    for (int64_t i = 0; i < in; i++)
        for (int64_t j = 0; j < in; j++)
            h[i * in + j] = tiny_hessian(packed, in, i, j);
    return h;
}

/* The largest entry of the asymmetry. */
static double expect_site(const struct walk *x, const struct walk *xq, const struct qp_unit *unit, int layer, int site)
{
    const float *now = xq->inputs[site], *original = x->inputs[site];
    const char *name = sites[site];
    int64_t in = widths[site];
    expect_product(ALL, unpacked(find(unit, layer, name, "hessian"), in), now, NULL, now, in, name);
    expect_product(HELD, find(unit, layer, name, "held_hessian"), now, NULL, now, in, name);
    expect_product(HELD, find(unit, layer, name, "held_asymmetry"), original, now, now, in, name);
    return expect_product(LEARNED, find(unit, layer, name, "asymmetry"), original, now, now, in, name);
}

Test(calibrate_feedback, statistics_are_those_after_quantized_layers)
{
    struct qp_error err = {0};
    struct qp_unit *quantized[TINY_UNITS];
    size_t count;
    struct qp_unit **out = calibrate(both, &count, &err);
    struct walk x, xq;
    tiny_units(SCHEME, false, quantized);
    tiny_quantize(quantized);
    open_walk(out[0], &x);
    open_walk(out[0], &xq);
    begin(&x, out[1], QP_ORIGINAL);
    begin(&xq, quantized[1], QP_QUANTIZED);
    for (int l = 0; l < TINY_LAYERS; l++) {
        struct qp_block original = block_of(&x, out[2 + l]), back = block_of(&x, quantized[2 + l]);
        look(&x, &original, &back, 0);
        look(&xq, &original, &back, 0);
        for (int s = 0; s < 4; s++) {
            double most = expect_site(&x, &xq, out[2 + l], l, s);
            cr_expect(l == 0 ? most == 0.0 : most > 0.0, "layer %d deviates by %g", l, most);
        }
        run_layer(&x, &original, QP_ORIGINAL, NULL);
        run_layer(&xq, &back, QP_QUANTIZED, NULL);
    }
    close_walk(&x);
    close_walk(&xq);
    tiny_free(quantized, TINY_UNITS);
    tiny_free(out, count);
    free(out);
}

Test(calibrate_feedback, asymmetry_is_made_when_it_is_wanted_only)
{
    struct qp_error err = {0};
    size_t count;
    struct qp_unit **out = calibrate(hessian, &count, &err);
    find(out[3], 1, "attn_in", "hessian");
    find(out[3], 1, "mlp_out", "absmax");
    cr_expect_null(qp_unit_find(out[3], "model.layers.1.attn_in.asymmetry"));
    cr_expect_eq(json_integer_value(json_object_get(out[3]->attrs, "tokens")), TOKENS);
    tiny_free(out, count);
    free(out);
}

Test(calibrate_feedback, what_nobody_wants_is_not_read_of_what_comes_back)
{
    struct qp_error err = {0};
    size_t count;
    struct qp_unit **out = calibrate(NULL, &count, &err);
    cr_expect_null(qp_unit_find(out[3], "model.layers.1.attn_in.hessian"));
    tiny_free(out, count);
    free(out);
}

/* ---- in steps ---- */

static void calibrate_sequential(struct qp_unit ***out)
{
    struct qp_error err = {0};
    struct qp_unit *whole[TINY_UNITS], *quantized[TINY_UNITS], *forth[TINY_STEPS], *back[TINY_STEPS];
    tiny_units(SCHEME, false, whole);
    tiny_steps(whole, forth);
    tiny_units(SCHEME, true, quantized);
    tiny_quantize(quantized);
    take_steps_back(quantized, back);
    cr_assert_eq(feed(both, forth, back, TINY_STEPS, out, &err), 0, "%s", err.message);
}

static bool has(const struct qp_unit *unit, int layer, const char *module, const char *what)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, module, what);
    return qp_unit_find(unit, name) != NULL;
}

/* A step has statistics of its site, and what came back with the step before it: codes, and absmax of all sites. */
static void expect_content(const struct qp_unit *unit, int layer, int step)
{
    static const char *const linears[] = {"self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"};
    for (int s = 0; s < QP_SITES; s++) {
        cr_expect_eq(has(unit, layer, sites[s], "asymmetry"), s == step - 1, "step %d, %s", step, sites[s]);
        cr_expect_eq(has(unit, layer, sites[s], "held_asymmetry"), s == step - 1, "step %d, %s", step, sites[s]);
        cr_expect_eq(has(unit, layer, sites[s], "absmax"), step > 1, "step %d, %s", step, sites[s]);
        cr_expect_eq(has(unit, layer, linears[s], "weight_codes"), s < step - 1, "step %d, %s", step, linears[s]);
        cr_expect(has(unit, layer, linears[s], "weight"));
    }
    cr_expect_eq(json_integer_value(json_object_get(unit->attrs, "tokens")), TOKENS);
}

Test(calibrate_feedback, statistics_of_a_step_are_those_after_the_layers_own_quantized_linears)
{
    struct qp_unit *quantized[TINY_UNITS], **out;
    struct walk x, xq;
    calibrate_sequential(&out);
    tiny_units(SCHEME, false, quantized);
    tiny_quantize(quantized);
    open_walk(quantized[0], &x);
    open_walk(quantized[0], &xq);
    begin(&x, out[1], QP_ORIGINAL);
    begin(&xq, quantized[1], QP_QUANTIZED);
    for (int l = 0; l < TINY_LAYERS; l++) {
        struct qp_block back = block_of(&x, quantized[2 + l]);
        for (int s = 0; s < QP_SITES; s++) {
            struct qp_block original = block_of(&x, out[2 + QP_SITES * l + s]);
            cr_assert(original.layer == l && original.step == s + 1);
            expect_content(original.unit, l, s + 1);
            look(&x, &original, &back, 0);
            look(&xq, &original, &back, s);
            double most = expect_site(&x, &xq, original.unit, l, s);
            cr_expect(l + s == 0 ? most == 0.0 : most > 0.0, "layer %d deviates by %g", l, most);
        }
        run_layer(&x, &back, QP_ORIGINAL, NULL);
        run_layer(&xq, &back, QP_QUANTIZED, NULL);
    }
    close_walk(&x);
    close_walk(&xq);
    tiny_free(quantized, TINY_UNITS);
    tiny_free(out, TINY_STEPS);
    free(out);
}

Test(calibrate_feedback, steps_that_come_back_whole_are_refused)
{
    struct qp_error err = {0};
    struct qp_unit *units[TINY_UNITS], *back[TINY_UNITS], *forth[TINY_STEPS], **out;
    tiny_units(SCHEME, false, units);
    tiny_units(SCHEME, false, back);
    tiny_steps(units, forth);
    cr_expect_eq(feed(both, forth, back, 1, &out, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "feedback: {from: quantize.steps, delay: 1}"), "%s", err.message);
    tiny_free(forth + 1, TINY_STEPS - 1);
    tiny_free(back + 1, TINY_UNITS - 1);
}

Test(calibrate_feedback, steps_that_do_not_come_back_are_refused)
{
    struct qp_unit *units[TINY_UNITS], *forth[TINY_STEPS];
    size_t count;
    tiny_units(SCHEME, false, units);
    tiny_steps(units, forth);
    tiny_call(&qp_stage_desc,
              &(struct tiny_call){.context = "{\"data\": " DATA "}",
                                  .wants = both,
                                  .units = forth,
                                  .count = TINY_STEPS,
                                  .expected = QP_ERR_INPUT},
              &count, NULL);
    cr_expect(strstr(tiny_message, "feedback: {from: quantize.steps, delay: 1}"), "%s", tiny_message);
}
