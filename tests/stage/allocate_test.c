/* allocate: what it predicts is what quantization does, budgets hold, and everything passes on unharmed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/evaluate.h"
#include "libstage/network/model_unit.h"
#include "libstage/solvers/quality.h"
#include "tests/support/scratch.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

TestSuite(allocate, .init = scratch_make, .fini = scratch_drop);

#define INT3 "{\"weights\": {\"format\": \"int3\", \"group\": 32}}"
#define INT4 "{\"weights\": {\"format\": \"int4\", \"group\": 32}}"
#define INT8 "{\"weights\": {\"format\": \"int8\", \"group\": 32}}"
#define SCHEME(budget) "{\"budget\": \"" budget "\", \"choose_from\": [" INT3 ", " INT4 ", " INT8 ", \"bf16\"]}"
#define CONTEXT "{\"data\": {\"synthetic\": true, \"samples\": 4, \"length\": 64, \"seed\": 5}}"

enum { SITES = TINY_LAYERS * QP_SITES };

/* Gives a site's Hessian the value of white noise: all channels count the same. */
static void whiten(struct qp_unit *unit, const char *site)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%lld.%s.hessian", (long long)unit->seq - 2, site);
    struct qp_tensor *h = qp_unit_find(unit, name);
    for (int64_t i = 0; i < h->elements; i++)
        ((float *)h->data)[i] = i % (h->shape[0] + 1) == 0 ? (float)(4 * h->shape[0]) : 0.0f;
}

/* The units of a calibrated model: their statistics are of so many tokens. */
static void calibrated(const char *scheme, struct qp_unit *units[TINY_UNITS])
{
    tiny_units(scheme, true, units);
    for (int u = 2; u < 2 + TINY_LAYERS; u++)
        json_object_set_new(units[u]->attrs, "tokens", json_integer(4 * TINY_HIDDEN));
}

struct result {
    struct qp_unit **out;
    size_t count;
    json_t *report; /* the whole one; `allocation` is borrowed from it */
    const json_t *allocation;
    struct qp_model model;
};

static struct result allocate(const char *scheme, const char *params)
{
    struct result r = {0};
    struct qp_unit *units[TINY_UNITS];
    struct qp_error err;
    calibrated(scheme, units);
    r.out = tiny_call(&qp_stage_desc,
                      &(struct tiny_call){.params = params, .context = CONTEXT, .units = units, .count = TINY_UNITS},
                      &r.count, &r.report);
    cr_assert_eq(r.count, TINY_UNITS);
    r.allocation = json_object_get(r.report, "allocation");
    cr_assert(json_is_object(r.allocation), "nothing was reported");
    cr_assert_eq(qp_model_open(r.out[0], &r.model, &err), 0, "%s", err.message);
    return r;
}

static void drop(struct result *r)
{
    qp_model_close(&r->model);
    json_decref(r->report);
    tiny_free(r->out, r->count);
    free(r->out);
}

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    cr_assert(json_is_number(value), "`%s` is no number", key);
    return json_number_value(value);
}

/* Bits of codes and scales that the chosen scheme stores for a weight, counted from the scheme alone. */
static double counted_bits(const struct qp_model *model)
{
    double bits = 0.0, weights = 0.0;
    for (int64_t layer = 0; layer < TINY_LAYERS; layer++)
        for (int l = 0; l < QP_LINEARS; l++) {
            const struct qp_linear *d = &model->arch.layer_types[0]->linears[l];
            double size = (double)(d->out * d->in);
            const struct qp_linear_scheme *s = qp_model_scheme(model, layer, l);
            /* a scale of 32 bits for each 32 weights, and the shape of the packed matrix, two of 64 */
            bits += s ? size * (s->weights.format.bits + 1) + 128.0 : size * 32.0;
            weights += size;
        }
    return bits / weights;
}

Test(allocate, budgets_hold_and_more_bits_lose_less)
{
    static const char *const schemes[] = {SCHEME("4.5bits"), SCHEME("5bits"), SCHEME("7bits"), SCHEME("10 bits"),
                                          SCHEME("20bits")};
    static const double budgets[] = {4.5, 5.0, 7.0, 10.0, 20.0};
    double before = INFINITY;
    for (int i = 0; i < 5; i++) {
        struct result r = allocate(schemes[i], NULL);
        double bits = number(r.allocation, "bits"), loss = number(r.allocation, "predicted_loss");
        cr_expect_leq(bits, budgets[i]);
        cr_expect_float_eq(bits, counted_bits(&r.model), 1e-9, "%s: %g bits were told, %g are stored", schemes[i], bits,
                           counted_bits(&r.model));
        cr_expect_leq(loss, before, "what fitted fits still");
        cr_expect_eq(number(r.allocation, "gap"), 0.0, "not proven best");
        before = loss;
        drop(&r);
    }
}

Test(allocate, fused_linears_get_one_format)
{
    struct result r = allocate(SCHEME("5.5bits"), NULL);
    int mixed = 0;
    for (int64_t layer = 0; layer < TINY_LAYERS; layer++) {
        const struct qp_linear_scheme *s[QP_LINEARS];
        for (int l = 0; l < QP_LINEARS; l++)
            s[l] = qp_model_scheme(&r.model, layer, l);
#define BITS(l) (s[l] ? s[l]->weights.format.bits : 16)
        cr_expect_eq(BITS(QP_Q), BITS(QP_K));
        cr_expect_eq(BITS(QP_Q), BITS(QP_V));
        cr_expect_eq(BITS(QP_GATE), BITS(QP_UP));
        mixed += BITS(QP_Q) != BITS(QP_DOWN) || BITS(QP_O) != BITS(QP_UP);
    }
    cr_expect_gt(mixed, 0, "5.5 bits need more than one format");
    drop(&r);
}

/* Runs the text through a network in which the linears that `scheme` names are rounded to nearest; final hidden states,
 * scored against the original network. */
static double divergence_of(const char *scheme)
{
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS];
    struct qp_model model;
    struct qp_windows windows;
    struct qp_text text;
    struct qp_hidden_states states[2];
    struct qp_metrics metrics;
    struct qp_head head;
    qp_auto_json json_t *spec =
        json_loads("{\"synthetic\": true, \"samples\": 4, \"length\": 64, \"seed\": 5}", 0, NULL);
    calibrated(scheme, units);
    tiny_quantize(units);
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    cr_assert_eq(qp_windows_load(spec, NULL, TINY_VOCAB, &windows, &err), 0);
    cr_assert_eq(qp_text_open(&model.arch, &windows, &text, &err), 0);
    for (int n = 0; n < 2; n++) {
        cr_assert_eq(qp_hidden_open(&windows, TINY_HIDDEN, NULL, &states[n], &err), 0);
        for (int u = 1; u < TINY_UNITS - 2; u++) {
            struct qp_block block;
            struct qp_layer layer;
            cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("cpu"), units[u], &block, &err), 0);
            if (u == 1) {
                cr_assert_eq(qp_text_embed(&text, &block, QP_ORIGINAL, &states[n], &err), 0);
                continue;
            }
            cr_assert_eq(qp_layer_load(&block, n ? QP_QUANTIZED : QP_ORIGINAL, model.scheme, &layer, &err), 0);
            cr_assert_eq(qp_text_forward(&text, &layer, &states[n], NULL, &err), 0);
            qp_layer_free(&layer);
        }
    }
    struct qp_block last;
    cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("cpu"), units[TINY_UNITS - 2], &last, &err), 0);
    cr_assert_eq(qp_head_load(&last, &head, &err), 0);
    cr_assert_eq(qp_hidden_score(&head, &states[1], &states[0], &metrics, &err), 0);
    qp_head_free(&head);
    qp_hidden_close(&states[0]);
    qp_hidden_close(&states[1]);
    qp_text_close(&text);
    qp_windows_free(&windows);
    qp_model_close(&model);
    tiny_free(units, TINY_UNITS);
    return metrics.kl_divergence;
}

/* The losses file of a run on the tiny model; over white noise if asked for. */
static json_t *measured_losses(bool white, const char *method)
{
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    json_t *losses;
    qp_auto_free char *context = qp_format("{\"output\": \"%s\", \"data\": {\"synthetic\": true, \"samples\": 4, "
                                           "\"length\": 64, \"seed\": 5}}",
                                           scratch("out"));
    calibrated(SCHEME("5bits"), units);
    for (int u = 2; white && u < 2 + TINY_LAYERS; u++) {
        whiten(units[u], "attn_in");
        whiten(units[u], "attn_out");
        whiten(units[u], "mlp_in");
        whiten(units[u], "mlp_out");
    }
    qp_auto_free char *params = qp_format("{\"method\": \"%s\"}", method);
    out = tiny_call(&qp_stage_desc,
                    &(struct tiny_call){.params = params, .context = context, .units = units, .count = TINY_UNITS},
                    &count, NULL);
    tiny_free(out, count);
    free(out);
    cr_assert_eq(qp_read_json(scratch("out.losses.json"), 1 << 20, &losses, &err), 0, "%s", err.message);
    return losses;
}

/* Over white noise GPTQ rounds to nearest. Scales are searched there and not here, so the two agree roughly; a stream
 * that is mixed up does not agree at all. */
Test(allocate, a_groups_divergence_is_that_of_the_network_with_it_alone_quantized)
{
    static const char *const patterns[SITES][2] = {{"model.layers.0.self_attn.[qkv]_proj", "model.layers.0.attn_in"},
                                                   {"model.layers.0.self_attn.o_proj", "model.layers.0.attn_out"},
                                                   {"model.layers.0.mlp.[gu][ap]*_proj", "model.layers.0.mlp_in"},
                                                   {"model.layers.0.mlp.down_proj", "model.layers.0.mlp_out"},
                                                   {"model.layers.1.self_attn.[qkv]_proj", "model.layers.1.attn_in"},
                                                   {"model.layers.1.self_attn.o_proj", "model.layers.1.attn_out"},
                                                   {"model.layers.1.mlp.[gu][ap]*_proj", "model.layers.1.mlp_in"},
                                                   {"model.layers.1.mlp.down_proj", "model.layers.1.mlp_out"}};
    qp_auto_json json_t *losses = measured_losses(true, "gptq");
    for (size_t g = 0; g < SITES; g++) {
        const json_t *group = json_array_get(json_object_get(losses, "groups"), g);
        cr_assert_str_eq(json_string_value(json_object_get(group, "name")), patterns[g][1]);
        qp_auto_free char *scheme =
            qp_format("{\"weights\": {\"format\": \"bf16\"}, \"rules\": [{\"match\": \"%s\", \"weights\": {\"format\": "
                      "\"int3\", \"group\": 32}}]}",
                      patterns[g][0]);
        double found = number(group, "divergence"), expected = divergence_of(scheme);
        cr_expect(found > 0.4 * expected && found < 1.6 * expected, "%s: divergence %g, expected about %g",
                  patterns[g][1], found, expected);
    }
}

/* The loss of a group of a losses file with its coarsest candidate. */
static double loss_of(const json_t *losses, size_t group)
{
    return json_number_value(
        json_array_get(json_object_get(json_array_get(json_object_get(losses, "groups"), group), "weight_loss"), 0));
}

Test(allocate, losses_are_of_the_method_that_follows)
{
    for (int white = 0; white < 2; white++) {
        qp_auto_json json_t *gptq = measured_losses(white, "gptq"), *rtn = measured_losses(white, "rtn");
        for (size_t g = 0; g < SITES; g++) {
            double share = loss_of(gptq, g) / loss_of(rtn, g);
            if (white)
                cr_expect_float_eq(share, 1.0, 1e-3, "group %zu: errors have nowhere to go, %g", g, share);
            else
                cr_expect(fabs(share - 1.0) > 1e-6, "group %zu: the losses are those of rounding", g);
        }
    }
}

Test(allocate, losses_of_a_former_run_give_the_same_choice_at_once)
{
    qp_auto_json json_t *losses = measured_losses(false, "gptq");
    (void)losses;
    qp_auto_free char *params = qp_format("{\"losses\": \"%s\"}", scratch("out.losses.json"));
    struct result first = allocate(SCHEME("5bits"), NULL), again = allocate(SCHEME("5bits"), params);
    cr_expect(
        json_equal(json_object_get(first.out[0]->attrs, "scheme"), json_object_get(again.out[0]->attrs, "scheme")));
    cr_expect_float_eq(number(first.allocation, "predicted_loss"), number(again.allocation, "predicted_loss"), 1e-12);
    drop(&first);
    drop(&again);

    struct result other = allocate("{\"budget\": \"6bits\", \"choose_from\": [" INT4 ", " INT8 "]}", params);
    cr_expect_leq(number(other.allocation, "bits"), 6.0, "fewer formats, another budget");
    drop(&other);

    struct qp_unit *units[TINY_UNITS];
    size_t count;
    calibrated("{\"budget\": \"6bits\", \"choose_from\": [{\"weights\": {\"format\": \"int5\"}}, \"bf16\"]}", units);
    tiny_call(&qp_stage_desc,
              &(struct tiny_call){
                  .params = params, .context = CONTEXT, .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
              &count, NULL);
    cr_expect(strstr(tiny_message, "int5"), "%s", tiny_message);
}

Test(allocate, units_pass_with_all_they_held)
{
    struct qp_unit *plain[TINY_UNITS];
    calibrated(SCHEME("5bits"), plain);
    struct result r = allocate(SCHEME("5bits"), NULL);
    for (int u = 1; u < TINY_UNITS; u++) {
        cr_assert_eq(r.out[u]->seq, plain[u]->seq);
        cr_assert_eq(r.out[u]->kind, plain[u]->kind);
        cr_assert(json_equal(r.out[u]->attrs, plain[u]->attrs));
        cr_assert_eq(r.out[u]->count, plain[u]->count);
        for (size_t i = 0; i < plain[u]->count; i++) {
            const struct qp_tensor *was = plain[u]->tensors[i], *is = qp_unit_find(r.out[u], was->name);
            cr_assert(is && is->bytes == was->bytes && memcmp(is->data, was->data, was->bytes) == 0, "%s", was->name);
        }
    }
    tiny_free(plain, TINY_UNITS);
    drop(&r);

    r = allocate(SCHEME("5bits"), "{\"keep_statistics\": false}");
    cr_expect_null(qp_unit_find(r.out[2], "model.layers.0.mlp_in.hessian"));
    cr_expect_null(qp_unit_find(r.out[3], "model.layers.1.attn_in.absmax"));
    cr_expect_not_null(qp_unit_find(r.out[2], "model.layers.0.mlp.up_proj.weight"));
    drop(&r);
}

Test(allocate, quantized_inputs_count)
{
    struct result r =
        allocate("{\"budget\": \"20bits\", \"choose_from\": [{\"name\": \"w8\", \"weights\": {\"format\": "
                 "\"int8\"}}, {\"name\": \"w8a4\", \"weights\": {\"format\": \"int8\"}, \"activations\": "
                 "{\"format\": \"int4\"}}]}",
                 "{\"sensitivity\": \"none\"}");
    const json_t *uniform = json_object_get(r.allocation, "uniform");
    double w8 = number(json_array_get(uniform, 0), "predicted_loss");
    double w8a4 = number(json_array_get(uniform, 1), "predicted_loss");
    cr_expect_gt(w8a4, w8, "inputs of 4 bits lose %g, weights of 8 bits %g", w8a4, w8);
    cr_expect_eq(json_integer_value(json_object_get(json_object_get(r.allocation, "formats"), "w8")),
                 TINY_LAYERS * QP_LINEARS);
    drop(&r);
}

Test(allocate, the_size_of_the_whole_checkpoint_is_a_budget)
{
    struct result r = allocate("{\"budget\": \"150kB\", \"choose_from\": [" INT4 ", " INT8 ", \"bf16\"]}", NULL);
    cr_expect_leq(number(r.allocation, "bytes"), 150e3);
    cr_expect_gt(number(r.allocation, "bytes"), 120e3, "most of the budget can be used");
    drop(&r);
}

Test(allocate, ignored_linears_stay_and_do_not_count)
{
    struct result r = allocate("{\"budget\": \"5.1bits\", \"ignore\": [\"*.down_proj\", \"*.q_proj\", \"lm_head\"], "
                               "\"choose_from\": [" INT3 ", " INT4 ", " INT8 "]}",
                               NULL);
    cr_expect_eq(json_array_size(json_object_get(r.allocation, "linears")), TINY_LAYERS * (QP_LINEARS - 2));
    cr_expect_null(qp_model_scheme(&r.model, 0, QP_DOWN));
    cr_expect_null(qp_model_scheme(&r.model, 1, QP_Q));
    cr_expect_not_null(qp_model_scheme(&r.model, 1, QP_K));
    drop(&r);
}

Test(allocate, a_scheme_without_budget_passes)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS}, &count, NULL);
    cr_expect_eq(count, TINY_UNITS);
    cr_expect_str_eq(json_string_value(json_object_get(out[0]->attrs, "scheme")), "int8");
    tiny_free(out, count);
    free(out);
}

/* Runs into an error that has to say `word`. */
static void fails(const char *scheme, const char *params, const char *context, const char *word)
{
    struct qp_unit *units[TINY_UNITS];
    size_t count;
    calibrated(scheme, units);
    tiny_call(&qp_stage_desc,
              &(struct tiny_call){
                  .params = params, .context = context, .units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT},
              &count, NULL);
    cr_expect(strstr(tiny_message, word), "expected '%s' in: %s", word, tiny_message);
}

Test(allocate, what_cannot_be_done_is_said)
{
    fails(SCHEME("2bits"), NULL, CONTEXT, "4.0"); /* the smallest that can be done: 3 bits, scales, shapes */
    fails("{\"budget\": \"40kB\", \"choose_from\": [" INT3 ", " INT4 "]}", NULL, CONTEXT, "MB");
    fails("{\"budget\": \"5bits\", \"ignore\": [\"*\"], \"choose_from\": [" INT3 ", " INT4 "]}", NULL, CONTEXT,
          "ignore");
    fails("{\"budget\": \"5bits\", \"choose_from\": [\"int4\", " INT4 "]}", NULL, CONTEXT, "'int4' fits no linear");
    fails(SCHEME("5bits"), NULL, NULL, "data.calibration");
    fails(SCHEME("5bits"), "{\"losses\": \"/nowhere/losses.json\"}", CONTEXT, "/nowhere/losses.json");
}

Test(allocate, too_large_a_budget_is_warned_of)
{
    fails(SCHEME("32bits"), NULL, CONTEXT, "nothing would be quantized");
    struct result r = allocate("{\"budget\": \"16bits\", \"choose_from\": [" INT3 ", " INT8 "]}", NULL);
    const json_t *warning = json_array_get(json_object_get(r.report, "warnings"), 0);
    cr_expect_str_eq(json_string_value(json_object_get(warning, "code")), "budget_unused");
    drop(&r);
}
