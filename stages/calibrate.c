/* calibrate: runs calibration text through the original network, one block at a time, and adds what stages downstream
 * asked for (stages/calibrate/statistics.h).
 *
 * In and out: blocks; statistics are added under the names of libstage/model/block.h. When nobody asks for anything,
 * blocks pass as they are and no text is read. Memory: one block's weights and statistics; the hidden states of all
 * samples are a mapped file in the scratch folder. */
#include "libstage/include/block_stage.h"
#include "libstage/model/evaluate.h"
#include "stages/calibrate/statistics.h"

struct state {
    struct qp_model model;
    struct qp_windows windows;
    struct qp_text text;
    struct qp_stream stream;
    bool collecting;
};

static const char *const needs[] = {"weights", NULL};
static const char *const provides[] = {"statistics", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "the original network"}, {0}};
static const struct qp_port outputs[] = {
    {.name = "out", .provides = provides, .help = "the same with statistics at each site"}, {0}};

static int start(struct qp_stage *stage, void *state, struct qp_error *err)
{
    struct state *s = state;
    s->collecting = qp_statistics_wanted(stage);
    if (!s->collecting)
        return 0;
    int r = qp_model_windows(&s->model, json_object_get(qp_stage_context(stage), "data"), &s->windows, err);
    if (r == 0)
        r = qp_text_open(&s->model.arch, &s->windows, &s->text, err);
    if (r == 0)
        r = qp_stream_open(&s->windows, s->model.arch.hidden, qp_stage_scratch(stage), &s->stream, err);
    return r;
}

static int calibrate_layer(struct qp_stage *stage, struct state *s, struct qp_block *block, struct qp_error *err)
{
    struct qp_statistics *statistics = NULL;
    struct qp_layer layer = {0};
    int r = qp_statistics_open(stage, block, &s->windows, &statistics, err);
    struct qp_taps taps = {.site = qp_statistics_site, .cache = qp_statistics_cache, .context = statistics};
    if (r == 0)
        r = qp_layer_load(block, QP_ORIGINAL, NULL, &layer, err);
    if (r == 0)
        r = qp_text_forward(&s->text, &layer, &s->stream, &taps, err);
    qp_layer_free(&layer);
    if (r == 0)
        r = qp_statistics_put(statistics, block->unit, err);
    qp_statistics_free(statistics);
    return r;
}

static int calibrate(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    struct state *s = state;
    if (!s->collecting)
        return 0;
    if (qp_block_is_layer(block))
        return calibrate_layer(stage, s, block, err);
    return block->layer < 0 ? qp_text_embed(&s->text, block, QP_ORIGINAL, &s->stream, err) : 0;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    return qp_stage_blocks(stage, s, unit, &s->model, start, calibrate, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    struct state *s = state;
    qp_stream_close(&s->stream);
    qp_text_close(&s->text);
    qp_windows_free(&s->windows);
    qp_model_close(&s->model);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "calibrate",
    .summary = "records what the network's activations look like on calibration text",
    .version = 1,
    .state_size = sizeof(struct state),
    .inputs = inputs,
    .outputs = outputs,
    .collects = qp_statistics_names,
    .data = "calibration",
    .any_scheme = true,
    .stateful = true,
    .process = process,
    .close = close_,
};
