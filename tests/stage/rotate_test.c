/* rotate: turns weights and leaves the function as it is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/model_unit.h"
#include "tests/support/golden.h"
#include "tests/support/tiny.h"

extern const struct qp_stage_desc qp_stage_desc;

/* The units of a whole checkpoint, as load sends them; *count of them. */
static struct qp_unit **load(struct qp_checkpoint *c, size_t *count)
{
    struct qp_error err;
    struct qp_scheme *scheme;
    int64_t blocks = qp_arch_blocks(&c->arch);
    struct qp_unit **units = calloc((size_t)blocks + 2, sizeof(struct qp_unit *));
    qp_auto_json json_t *name = json_string("int8");
    cr_assert_eq(qp_scheme_parse(name, &scheme, &err), 0, "%s", err.message);
    cr_assert_eq(qp_checkpoint_model(c, scheme, &units[0], &err), 0, "%s", err.message);
    for (int64_t b = 0; b < blocks; b++)
        cr_assert_eq(qp_checkpoint_block(c, b, NULL, &units[1 + b], &err), 0, "%s", err.message);
    cr_assert_eq(qp_unit_new(QP_UNIT_END, blocks + 1, &units[blocks + 1], &err), 0);
    *count = (size_t)blocks + 2;
    qp_scheme_free(scheme);
    return units;
}

/* logits of the units' own weights. */
static void logits_of(struct qp_unit **units, const struct qp_windows *windows, float *logits)
{
    struct qp_error err;
    struct qp_model model;
    struct qp_block block;
    struct qp_workspace *workspace;
    struct qp_rotations rotations;
    const struct qp_kernels *kernels = qp_kernels_open("cpu");
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    int64_t rows = windows->count * windows->length, blocks = qp_arch_blocks(&model.arch);
    float *x = malloc((size_t)(2 * rows * model.arch.hidden) * sizeof *x);
    cr_assert_eq(qp_rotations_open(&model.arch, windows->length, &rotations, &err), 0, "%s", err.message);
    cr_assert_eq(qp_workspace_new(&workspace, &err), 0, "%s", err.message);
    for (int64_t b = 0; b < blocks; b++) {
        struct qp_layer layer;
        struct qp_head head;
        cr_assert_eq(qp_block_of(&model.arch, kernels, units[1 + b], &block, &err), 0, "%s", err.message);
        if (b == 0) {
            cr_assert_eq(qp_embed(&block, QP_ORIGINAL, rows, windows->length, windows->ids, x, &err), 0, "%s",
                         err.message);
        } else if (b == blocks - 1) {
            cr_assert_eq(qp_head_load(&block, &head, &err), 0, "%s", err.message);
            qp_head_logits(&head, QP_ORIGINAL, rows, x, x + rows * model.arch.hidden, logits);
            qp_head_free(&head);
        } else {
            cr_assert_eq(qp_layer_load(&block, QP_ORIGINAL, NULL, &layer, &err), 0, "%s", err.message);
            cr_assert_eq(qp_layer_forward(&layer, &(struct qp_sequences){windows->count, windows->length, x},
                                          &rotations, workspace, NULL, &err),
                         0, "%s", err.message);
            qp_layer_free(&layer);
        }
    }
    qp_workspace_free(workspace);
    qp_rotations_close(&rotations);
    free(x);
    qp_model_close(&model);
}

/* Largest change of a logit by a rotation with `params`, relative to the largest logit. */
static double change(struct qp_checkpoint *c, const struct qp_windows *windows, const char *params)
{
    size_t count, size = (size_t)(windows->count * windows->length * c->arch.vocab);
    float *before = malloc(2 * size * sizeof *before), *after = before + size;
    struct qp_unit **units = load(c, &count), **out;
    logits_of(units, windows, before);
    out =
        tiny_call(&qp_stage_desc, &(struct tiny_call){.params = params, .units = units, .count = count}, &count, NULL);
    logits_of(out, windows, after);
    double largest = 0.0;
    for (size_t i = 0; i < size; i++)
        largest = fmax(largest, fabs(before[i]));
    double difference = largest_difference((int64_t)size, before, after) / largest;
    tiny_free(out, count);
    free(out);
    free(units);
    free(before);
    return difference;
}

Test(rotate, the_example_computes_the_same)
{
    static const char *const params[] = {"{}", "{\"r1\": false}", "{\"r2\": false}", "{\"seed\": 7}"};
    struct qp_error err;
    struct qp_checkpoint *c;
    int32_t ids[96];
    struct qp_windows windows = {ids, 2, 48};
    cr_assert_eq(qp_checkpoint_open(SOURCE_DIR "/examples/tiny", &c, &err), 0, "%s", err.message);
    for (int i = 0; i < 96; i++)
        ids[i] = (int32_t)(i * 37 % c->arch.vocab);
    for (int i = 0; i < 4; i++) {
        double d = change(c, &windows, params[i]);
        cr_expect_lt(d, 1e-4, "%s: %g", params[i], d);
    }
    qp_checkpoint_close(c);
}

/* Hidden size 24; one network has biases everywhere, two a head of their own. */
Test(rotate, biases_and_grouped_heads_compute_the_same)
{
    static const char *const models[] = {"plain", "biased", "linear", "llama3"};
    for (int i = 0; i < 4; i++) {
        struct qp_checkpoint *c = golden_open(models[i]);
        double d = change(c, golden_windows(), NULL);
        cr_expect_lt(d, 1e-4, "%s: %g", models[i], d);
        qp_checkpoint_close(c);
    }
}

static const float *find(const struct qp_unit *unit, const char *name)
{
    struct qp_tensor *t = qp_unit_find(unit, name);
    cr_assert(t && t->dtype == QP_F32, "%s is missing or not in float32", name);
    return t->data;
}

/* Kurtosis, 3 for normal numbers: how much stands out. */
static double kurtosis(const float *v, int64_t count)
{
    double second = 0.0, fourth = 0.0;
    for (int64_t i = 0; i < count; i++) {
        second += (double)v[i] * v[i];
        fourth += pow(v[i], 4.0);
    }
    return fourth * (double)count / (second * second);
}

Test(rotate, outliers_are_spread_and_the_head_is_untied)
{
    struct qp_unit *units[TINY_UNITS], **out;
    size_t count;
    tiny_units("\"int8\"", false, units);
    float *q = qp_unit_find(units[2], "model.layers.0.self_attn.q_proj.weight")->data;
    for (int r = 0; r < TINY_HIDDEN; r++)
        q[r * TINY_HIDDEN + 5] *= 50.0f;
    double before = kurtosis(q, TINY_HIDDEN * TINY_HIDDEN);
    out = tiny_call(&qp_stage_desc, &(struct tiny_call){.units = units, .count = TINY_UNITS}, &count, NULL);
    double after = kurtosis(find(out[2], "model.layers.0.self_attn.q_proj.weight"), TINY_HIDDEN * TINY_HIDDEN);
    cr_expect(before > 30.0 && after < 6.0, "%g, then %g", before, after);
    for (int i = 0; i < TINY_HIDDEN; i++)
        cr_expect_eq(find(out[2], "model.layers.0.input_layernorm.weight")[i], 1.0f);
    const json_t *config = json_object_get(out[0]->attrs, "config");
    cr_expect(json_is_false(json_object_get(config, "tie_word_embeddings")));
    find(out[TINY_UNITS - 2], "lm_head.weight");
    cr_expect_null(qp_unit_find(out[TINY_UNITS - 2], "model.embed_tokens.weight"));
    tiny_free(out, count);
    free(out);
}

Test(rotate, a_seed_gives_one_rotation_and_another_seed_another)
{
    float first[3][TINY_HIDDEN];
    for (int i = 0; i < 3; i++) {
        struct qp_unit *units[TINY_UNITS], **out;
        size_t count;
        tiny_units("\"int8\"", false, units);
        out = tiny_call(&qp_stage_desc,
                        &(struct tiny_call){
                            .params = i < 2 ? "{\"seed\": 3}" : "{\"seed\": 4}", .units = units, .count = TINY_UNITS},
                        &count, NULL);
        memcpy(first[i], find(out[2], "model.layers.0.mlp.up_proj.weight"), sizeof first[i]);
        tiny_free(out, count);
        free(out);
    }
    cr_expect_arr_eq(first[0], first[1], sizeof first[0]);
    cr_expect_arr_neq(first[0], first[2], sizeof first[0]);
}

Test(rotate, blocks_that_were_calibrated_are_refused)
{
    struct qp_unit *units[TINY_UNITS];
    size_t count;
    tiny_units("\"int8\"", true, units);
    cr_assert_null(tiny_call(&qp_stage_desc,
                             &(struct tiny_call){.units = units, .count = TINY_UNITS, .expected = QP_ERR_INPUT}, &count,
                             NULL));
    cr_expect(strstr(tiny_message, "between load and calibrate"), "%s", tiny_message);
}

Test(rotate, an_impossible_size_is_refused_by_name)
{
    struct qp_error err;
    struct qp_checkpoint *c;
    size_t count;
    cr_assert_eq(qp_checkpoint_open(golden_path("plain"), &c, &err), 0, "%s", err.message);
    struct qp_unit **units = load(c, &count);
    json_t *config = json_deep_copy(json_object_get(units[0]->attrs, "config"));
    json_object_set_new(config, "hidden_size", json_integer(116));
    json_t *attrs = json_deep_copy(units[0]->attrs);
    json_object_set_new(attrs, "config", config);
    json_decref(units[0]->attrs);
    units[0]->attrs = attrs;
    cr_assert_null(tiny_call(
        &qp_stage_desc, &(struct tiny_call){.units = units, .count = count, .expected = QP_ERR_INPUT}, &count, NULL));
    cr_expect(strstr(tiny_message, "hidden_size is 116") && strstr(tiny_message, "112 and 120"), "%s", tiny_message);
    free(units);
    qp_checkpoint_close(c);
}
