/* allocate: chooses the format of each linear within a budget of bits or bytes.
 *
 * A scheme {budget: 4.5bits, choose_from: [...]} leaves the formats open. Linears that engines fuse (q, k, v; gate, up;
 * what reads one site) get one format together. For each of these groups and each candidate the loss is what GPTQ (or
 * rounding to nearest) would change in the outputs, tr(D H Dᵀ) over all calibration tokens, and what quantized inputs
 * change: GPTQ leaves a tenth of some sites' loss and half of others', so that one does not tell the other. It is
 * weighed by what the network's final distribution makes of it (stages/allocate/measure.h). Cost is what is stored,
 * scales included. The choice of least damage within the budget is a multiple-choice knapsack, solved exactly
 * (libstage/solvers/knapsack.h).
 *
 * In: blocks with Hessians; out: the same after a model unit whose scheme has a base and rules, as if a user had
 * written it. A scheme without budget passes as it is. A decision needs all blocks, so they are kept in a file in the
 * scratch folder until the last has come; weights of a mapped checkpoint stay where they are. Memory: one layer, and
 * the hidden states of a few short windows for each group, in a mapped file. The losses are written to a file; with it
 * as `losses`, the decision is made at once, for any budget, nothing is measured, and blocks just pass. */
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/include/block_stage.h"
#include "stages/allocate/decide.h"
#include "stages/allocate/measure.h"
#include "stages/allocate/spool.h"

#define MEASURE "measure"

struct state {
    const char *losses, *method, *sensitivity;
    int64_t tokens;
    bool statistics;
    bool passing; /* nothing is left to be decided */
    struct qp_model model;
    struct qp_table table;
    struct qp_probes probes;
    struct qp_choice choice;
    struct qp_spool *spool;
};

static const char *const sensitivities[] = {"measured", "relative", "none", NULL}; /* as enum qp_sensitivity */
static const char *const methods[] = {"gptq", "rtn", NULL};
static const struct qp_param params[] = {
    QP_TEXT("losses", struct state, losses, MEASURE,
            "measure: from this run's statistics; else the file of losses of a former run (its OUTPUT.losses.json), to "
            "choose again for another budget"),
    QP_CHOICE("method", struct state, method, "gptq", methods,
              "what losses are of: gptq, or rtn, rounding to nearest; that of the quantize which follows"),
    QP_CHOICE("sensitivity", struct state, sensitivity, "measured", sensitivities,
              "what a loss is worth: measured on the network's output, relative to the output of its own linears, or "
              "the same everywhere"),
    QP_INT("sensitivity_tokens", struct state, tokens, "1024", 16, 1e6,
           "tokens of calibration text that sensitivity is measured on"),
    QP_FLAG("keep_statistics", struct state, statistics, "true",
            "pass statistics on; false needs less disk, and a second calibrate after this stage for who needs them"),
    {0}};
static const struct qp_need stage_needs[] = {{.what = "hessian", .param = "losses", .value = MEASURE}, {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks with statistics"}, {0}};
static const char *const provides[] = {"formats", NULL};
static const struct qp_port outputs[] = {
    {.name = "out", .provides = provides, .help = "the same, with a format for every linear"}, {0}};

static enum qp_sensitivity sensitivity_of(const struct state *s)
{
    int i = 0;
    while (strcmp(s->sensitivity, sensitivities[i]) != 0)
        i++;
    return (enum qp_sensitivity)i;
}

/* ---- deciding ---- */

/* Puts the chosen scheme into a model unit. */
static int set_scheme(const struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    json_t *scheme = qp_chosen_scheme(&s->table, &s->choice, s->model.scheme->source);
    if (!scheme || json_object_set_new(unit->attrs, "scheme", scheme) < 0)
        return qp_fail_memory(err, 0, "the chosen scheme");
    return 0;
}

static int decide(struct qp_stage *stage, struct state *s, struct qp_error *err)
{
    enum qp_sensitivity by = sensitivity_of(s);
    int r = qp_decide(&s->table, by, &s->choice, err);
    json_t *report = r == 0 ? qp_choice_report(&s->table, &s->choice, by, err) : NULL;
    if (!report)
        return err->code;
    qp_stage_report(stage, "allocation", report);
    qp_stage_log(stage, QP_INFO, "%s: %.4f bits a weight, predicted loss %.4g, at most %.2g from the best",
                 s->table.budget->text, s->choice.bits, s->choice.damage, s->choice.damage - s->choice.bound);
    if (s->choice.unused)
        qp_stage_warn(stage, "budget_unused", "scheme.budget",
                      "%s is more than the least damaging formats take, %.3f bits a weight: the rest is not used",
                      s->table.budget->text, s->choice.bits);
    return 0;
}

/* ---- the model unit ---- */

static bool quantizes_inputs(const struct qp_budget *budget)
{
    bool any = false;
    for (size_t c = 0; c < budget->count; c++)
        any = any || budget->candidates[c].scheme.activations.enabled;
    return any;
}

/* Text is needed for sensitivities, and for what quantized inputs lose. */
static int open_probes(struct qp_stage *stage, struct state *s, struct qp_error *err)
{
    const json_t *data = json_object_get(qp_stage_context(stage), "data");
    bool perturbed = sensitivity_of(s) == QP_SENSITIVITY_MEASURED;
    if (!perturbed && !quantizes_inputs(s->table.budget))
        return 0;
    if (!json_is_object(data))
        return qp_fail(err, QP_ERR_INPUT, "%s needs calibration data: add data.calibration",
                       perturbed ? "sensitivity: measured" : "a format with activations in choose_from");
    return qp_probes_open(
        &s->model, &(struct qp_probes_options){data, s->tokens, perturbed, s->table.count, qp_stage_scratch(stage)},
        &s->probes, err);
}

/* With losses at hand the decision is made here; otherwise units are kept from here on. */
static int open_model(struct qp_stage *stage, struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    int r = qp_model_open_any(unit, &s->model, err);
    if (r == 0)
        r = qp_model_expect_whole(&s->model, err);
    s->passing = r == 0 && !s->model.scheme->budget;
    if (r < 0 || s->passing)
        return r;
    r = qp_table_open(&s->model, &s->table, err);
    if (r < 0)
        return r;
    if (strcmp(s->losses, MEASURE) != 0) {
        s->passing = true;
        r = qp_table_read(&s->table, s->losses, err);
        if (r == 0)
            r = decide(stage, s, err);
        return r < 0 ? r : set_scheme(s, unit, err);
    }
    r = open_probes(stage, s, err);
    if (r == 0)
        r = qp_spool_open(qp_stage_scratch(stage), &s->spool, err);
    return r < 0 ? r : qp_spool_put(s->spool, unit, err);
}

/* ---- blocks ---- */

static int measure(struct state *s, const struct qp_block *block, struct qp_error *err)
{
    struct qp_probes *probes = s->probes.used > 0 ? &s->probes : NULL;
    if (qp_block_is_layer(block))
        return qp_measure_layer(&s->table, block, strcmp(s->method, "gptq") == 0, probes, err);
    if (!probes)
        return 0;
    return block->layer < 0 ? qp_probes_embed(probes, block, err) : qp_probes_score(probes, block, err);
}

/* Whether a tensor is what calibrate saw at a site. */
static bool is_statistic(const struct qp_block *block, const char *name)
{
    for (int site = 0; block->type && site < block->type->site_count; site++) {
        char prefix[256];
        size_t n = strlen(qp_block_name(block, block->type->sites[site].name, "", prefix, sizeof prefix));
        if (strncmp(name, prefix, n) == 0 && strcmp(name + n, "fold") != 0)
            return true;
    }
    return false;
}

static void drop_statistics(const struct qp_block *block)
{
    for (size_t i = block->unit->count; i-- > 0;)
        if (is_statistic(block, block->unit->tensors[i]->name))
            qp_unit_remove(block->unit, block->unit->tensors[i]->name);
}

static int take_block(struct qp_stage *stage, struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    struct qp_block block;
    int r = qp_block_of(&s->model.arch, qp_stage_kernels(stage), unit, &block, err);
    if (r == 0)
        r = measure(s, &block, err);
    if (r < 0)
        return r;
    if (!s->statistics && qp_block_is_layer(&block))
        drop_statistics(&block);
    r = qp_spool_put(s->spool, unit, err);
    qp_stage_progress(stage, unit->seq, qp_arch_blocks(&s->model.arch));
    return r;
}

/* ---- the end ---- */

static int write_losses(struct qp_stage *stage, const struct state *s, struct qp_error *err)
{
    const json_t *context = qp_stage_context(stage);
    const char *output = json_string_value(json_object_get(context, "destination"));
    if (!output)
        output = json_string_value(json_object_get(context, "output"));
    qp_auto_free char *path = qp_format("%s.losses.json", output ? output : "allocate");
    qp_auto_json json_t *losses = qp_table_json(&s->table);
    if (!path || !losses)
        return qp_fail_memory(err, 0, "the losses of formats");
    return output ? qp_write_json(path, losses, err) : 0;
}

static int emit_all(struct qp_stage *stage, struct state *s, struct qp_error *err)
{
    for (;;) {
        struct qp_unit *unit;
        int r = qp_spool_next(s->spool, &unit, err);
        if (r < 0 || !unit)
            return r;
        if (unit->kind == QP_UNIT_MODEL && (r = set_scheme(s, unit, err)) < 0) {
            qp_unit_free(unit);
            return r;
        }
        r = qp_stage_emit(stage, NULL, unit, err);
        if (r < 0)
            return r;
    }
}

static int finish(struct qp_stage *stage, struct state *s, const struct qp_unit *end, struct qp_error *err)
{
    int r = write_losses(stage, s, err);
    if (r == 0)
        r = decide(stage, s, err);
    if (r == 0)
        r = qp_spool_put(s->spool, end, err);
    return r < 0 ? r : emit_all(stage, s, err);
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    int r = 0;
    if (unit->kind == QP_UNIT_MODEL)
        r = open_model(stage, s, unit, err);
    else if (!s->passing)
        r = unit->kind == QP_UNIT_BLOCK ? take_block(stage, s, unit, err) : finish(stage, s, unit, err);
    if (s->passing)
        return qp_stage_pass(stage, unit, r, err);
    qp_unit_free(unit);
    return r;
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    struct state *s = state;
    qp_spool_close(s->spool);
    qp_choice_free(&s->choice);
    qp_probes_close(&s->probes);
    qp_table_close(&s->table);
    qp_model_close(&s->model);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "allocate",
    .summary = "chooses each linear's format within a budget of bits or bytes",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .needs = stage_needs,
    .data = "calibration",
    .data_optional = true,
    .any_scheme = true,
    .stateful = true,
    .holds = QP_HOLDS_ALL,
    .copies = true,
    .process = process,
    .close = close_,
};
