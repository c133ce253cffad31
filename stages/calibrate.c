/* calibrate: runs calibration text through the original network, one block at a time, and adds what stages downstream
 * asked for (stages/calibrate/statistics.h). With feedback the text runs through the quantized blocks as they come
 * back, and each block's statistics are those of what it will see there (stages/calibrate/prefix.h); where layers come
 * in steps, each site's are those after the layer's own quantized linears.
 *
 * In and out: blocks; statistics are added under the names of libstage/network/block.h. When nobody asks for anything,
 * blocks pass as they are and no text is read. Memory: one block's weights and statistics; the hidden states of all
 * samples are a mapped file in the scratch folder. */
#include <string.h>

#include "libstage/include/block_stage.h"
#include "libstage/network/evaluate.h"
#include "stages/calibrate/estimate.h"
#include "stages/calibrate/prefix.h"
#include "stages/calibrate/statistics.h"

struct state {
    const char *choice;
    enum qp_dtype compute;
    struct qp_model model;
    struct qp_windows windows;
    struct qp_text text;
    struct qp_hidden_states states; /* without feedback */
    struct qp_prefix *prefix;       /* with it */
    bool collecting;
};

static const struct qp_param params[] = {
    QP_CHOICE("compute", struct state, choice, "auto", qp_compute_choices,
              "what products are computed in: bf16 (sums in float32), fp32, or auto: bf16 for checkpoints in BF16 or "
              "F16 where the processor is faster at it"),
    {0}};
static const char *const needs[] = {"weights", NULL};
static const char *const provides[] = {"statistics", NULL};
static const char *const returned[] = {"weights", "quantized", NULL};
static const char *const asymmetry[] = {"asymmetry", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "the original network"},
                                        {.name = "feedback",
                                         .needs = returned,
                                         .help = "its blocks as they come back, quantized",
                                         .optional = true,
                                         .feedback = true,
                                         .collects = asymmetry},
                                        {0}};
static const struct qp_port outputs[] = {
    {.name = "out", .provides = provides, .help = "the same with statistics at each site"}, {0}};

static int start(struct qp_stage *stage, void *state, struct qp_error *err)
{
    struct state *s = state;
    s->collecting = qp_statistics_wanted(stage) || qp_stage_wants(stage, "asymmetry");
    if (s->model.sequential && !qp_stage_connected(stage, "feedback"))
        return qp_fail(err, QP_ERR_INPUT,
                       "layers come in steps (`true_sequential` of stage load), which is of use only when each comes "
                       "back quantized: write from: {in: STAGE, feedback: {from: quantize.steps, delay: 1}}");
    if (!s->collecting)
        return 0;
    s->compute = qp_compute(s->choice, &s->model.arch, qp_stage_kernels(stage));
    qp_stage_report(stage, "compute", json_string(qp_compute_name(s->compute)));
    int r = qp_model_windows(&s->model, json_object_get(qp_stage_context(stage), "data"), &s->windows, err);
    if (r == 0)
        r = qp_text_open(&s->model.arch, &s->windows, &s->text, err);
    if (r == 0)
        r = qp_stage_connected(stage, "feedback") ? qp_prefix_open(stage, &s->model, &s->text, &s->prefix, err)
                                                  : qp_hidden_open_as(&s->windows, s->model.arch.hidden, s->compute,
                                                                      qp_stage_scratch(stage), &s->states, err);
    return r;
}

/* Through original blocks: the hidden states move on with the block. */
static int collect(struct state *s, const struct qp_block *block, struct qp_statistics *statistics,
                   struct qp_error *err)
{
    struct qp_taps taps = {.site = qp_statistics_site,
                           .site_bf16 = qp_statistics_site_bf16,
                           .cache = qp_statistics_cache,
                           .context = statistics,
                           .ends = block->layer == s->model.arch.layers - 1};
    struct qp_layer layer;
    int r = qp_layer_load(block, QP_ORIGINAL, NULL, &layer, err);
    if (r < 0)
        return r;
    r = qp_text_forward(&s->text, &layer, &s->states, &taps, err);
    qp_layer_free(&layer);
    return r;
}

static int calibrate_layer(struct qp_stage *stage, struct state *s, struct qp_block *block, struct qp_error *err)
{
    struct qp_statistics *statistics = NULL;
    qp_stage_trim(stage); /* Hessians are summed up outside of what they are sent in */
    int r = qp_statistics_open(stage, block, &s->windows, &statistics, err);
    if (r == 0)
        r = s->prefix ? qp_prefix_collect(s->prefix, stage, block, statistics, err)
                      : collect(s, block, statistics, err);
    qp_workspace_empty(s->text.workspace);
    if (r == 0)
        r = qp_statistics_put(statistics, stage, block, err);
    qp_statistics_free(statistics);
    return r;
}

static int calibrate(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    struct state *s = state;
    if (!s->collecting)
        return 0;
    block->compute = s->compute;
    if (qp_block_is_layer(block))
        return calibrate_layer(stage, s, block, err);
    if (block->layer >= 0)
        return 0;
    return s->prefix ? qp_prefix_embed(s->prefix, block, err)
                     : qp_text_embed(&s->text, block, QP_ORIGINAL, &s->states, err);
}

static int take_back(struct qp_stage *stage, struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    qp_auto_unit struct qp_unit *owned = unit;
    (void)owned; /* clang counts no clean-up as a use */
    struct qp_block block;
    if (unit->kind == QP_UNIT_MODEL && s->model.sequential && !json_object_get(unit->attrs, "steps"))
        return qp_fail(err, QP_ERR_INPUT,
                       "layers go out in steps (`true_sequential` of stage load) and come back whole; take them from "
                       "quantize's other output: feedback: {from: quantize.steps, delay: 1}");
    if (!s->prefix || unit->kind != QP_UNIT_BLOCK)
        return 0;
    int r = qp_block_of(&s->model.arch, qp_stage_kernels(stage), unit, &block, err);
    block.compute = s->compute;
    if (r == 0)
        r = qp_prefix_advance(s->prefix, &block, err);
    qp_workspace_empty(s->text.workspace);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (strcmp(qp_stage_port(stage), "feedback") == 0)
        return take_back(stage, s, unit, err);
    return qp_stage_blocks(stage, s, unit, &s->model, start, calibrate, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    struct state *s = state;
    qp_prefix_free(s->prefix);
    qp_hidden_close(&s->states);
    qp_text_close(&s->text);
    qp_windows_free(&s->windows);
}

static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    return qp_calibrate_estimate(task, ((const struct state *)state)->choice, out, err);
}

static const char *const forms[] = {"packed_codes", NULL};

static const char *const uses[] = {NULL};

const struct qp_stage_desc qp_stage_desc = {
    .name = "calibrate",
    .summary = "records what the network's activations look like on calibration text",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .collects = qp_statistics_names,
    .data = "calibration",
    .any_scheme = true,
    .sequential = true,
    .stateful = true,
    .forms = forms,
    .estimate = estimate,
    .uses = uses,
    .process = process,
    .close = close_,
};
