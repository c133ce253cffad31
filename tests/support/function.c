#include "tests/support/function.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/network/model_unit.h"
#include "tests/support/tiny.h"

enum { SEQUENCES = 2, LENGTH = 24, STATES = SEQUENCES * LENGTH * TINY_HIDDEN };

/* Makes every 16th channel of a site 30 times as loud as it was, so that scales are worth their while. */
static void plant_outliers(struct qp_unit *unit, int layer, const struct qp_site *site)
{
    static const char *const statistics[] = {"hessian", "absmean", "absmax"};
    for (int k = 0; k < 3; k++) {
        char name[128];
        snprintf(name, sizeof name, "model.layers.%d.%s.%s", layer, site->name, statistics[k]);
        const struct qp_tensor *t = qp_unit_find(unit, name);
        int64_t n = t->shape[0];
        float *v = t->data;
        for (int64_t i = 0; i < t->elements; i++)
            v[i] *= (i % n % 16 == 5 ? 30.0f : 1.0f) * (k == 0 && i / n % 16 == 5 ? 30.0f : 1.0f);
    }
}

/* The hidden states after a layer for the same random ones before it. */
static void run_layer(const struct qp_block *block, enum qp_version version, float *x)
{
    struct qp_error err;
    struct qp_layer layer;
    struct qp_workspace *workspace;
    struct qp_rotations rotations;
    cr_assert_eq(qp_layer_load(block, version, NULL, &layer, &err), 0, "%s", err.message);
    cr_assert_eq(qp_rotations_open(block->arch, LENGTH, &rotations, &err), 0, "%s", err.message);
    cr_assert_eq(qp_workspace_new(&workspace, &err), 0, "%s", err.message);
    tiny_random(91, STATES, 1.0f, x);
    cr_assert_eq(
        qp_layer_forward(&layer, &(struct qp_sequences){SEQUENCES, LENGTH, x}, &rotations, workspace, NULL, &err), 0,
        "%s", err.message);
    qp_workspace_free(workspace);
    qp_layer_free(&layer);
    qp_rotations_close(&rotations);
}

/* The largest difference that the folds make, as a share of the most that the layer adds. */
static double change(const struct qp_block *block)
{
    static float x[STATES], before[STATES], after[STATES];
    double difference = 0.0, added = 0.0;
    tiny_random(91, STATES, 1.0f, x);
    run_layer(block, QP_ORIGINAL, before);
    run_layer(block, QP_TRANSFORMED, after);
    for (int i = 0; i < STATES; i++) {
        cr_assert(isfinite(after[i]));
        difference = fmax(difference, fabs((double)after[i] - before[i]));
        added = fmax(added, fabs((double)before[i] - x[i]));
    }
    return difference / added;
}

/* Whether most channels of a site have scales: folds of ones would keep any function. */
static bool is_scaled(const struct qp_block *block, const struct qp_site *site)
{
    char name[128];
    snprintf(name, sizeof name, "model.layers.%d.%s.fold", (int)block->layer, site->name);
    const struct qp_tensor *fold = qp_unit_find(block->unit, name);
    int64_t apart = 0;
    for (int64_t j = 0; fold && j < fold->elements; j++)
        apart += fabsf(((const float *)fold->data)[j] - 1.0f) > 1e-3f;
    return fold && apart > fold->elements / 2;
}

int function_is_kept(const struct qp_stage_desc *desc, const char *scheme, const char *params)
{
    struct qp_error err;
    struct qp_unit *units[TINY_UNITS], **out;
    struct qp_model model;
    size_t count;
    int scaled = 0;
    tiny_units(scheme, true, units);
    cr_assert_eq(qp_model_open(units[0], &model, &err), 0, "%s", err.message);
    cr_assert_neq(model.arch.heads, model.arch.kv_heads, "the model has no grouped value heads");
    for (int i = 0; i < TINY_LAYERS * QP_SITES; i++)
        plant_outliers(units[2 + i / QP_SITES], i / QP_SITES, &model.arch.layer_types[0]->sites[i % QP_SITES]);
    out = tiny_call(desc, &(struct tiny_call){.params = params, .units = units, .count = TINY_UNITS}, &count, NULL);
    for (int l = 0; l < TINY_LAYERS; l++) {
        struct qp_block block;
        cr_assert_eq(qp_block_of(&model.arch, qp_kernels_open("cpu"), out[2 + l], &block, &err), 0, "%s", err.message);
        for (int site = 0; site < QP_SITES; site++)
            scaled += is_scaled(&block, &model.arch.layer_types[0]->sites[site]);
        double d = change(&block);
        cr_expect_lt(d, 1e-5, "%s, layer %d: hidden states change by %g", params, l, d);
    }
    qp_model_close(&model);
    tiny_free(out, count);
    free(out);
    return scaled;
}
