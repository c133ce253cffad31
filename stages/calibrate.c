/* calibrate: runs calibration text through the original network, one block at a time, and adds what stages downstream
 * asked for: per site the second moment of its inputs, and per-channel statistics.
 *
 * In and out: blocks; statistics are added under the names of libstage/model/block.h. When nobody asks for anything,
 * blocks pass as they are and no text is read. Memory: one block's weights and statistics; the hidden states of all
 * samples are a mapped file in the scratch folder. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "libstage/model/evaluate.h"

/* Statistics of one site of the block in hand; what nobody wants is NULL. */
struct site_stats {
    struct qp_tensor *second_moment, *absmax, *absmean, *min, *max;
    double *abssum;
    int64_t tokens;
};

struct state {
    struct qp_model model;
    struct qp_windows windows;
    struct qp_text text;
    struct qp_stream stream;
    const struct qp_kernels *kernels;
    bool collecting;
    struct site_stats sites[QP_SITES];
};

static const char *const needs[] = {"weights", NULL};
static const char *const provides[] = {"statistics", NULL};
static const char *const collects[] = {"second_moment", "absmax", "absmean", "min", "max", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "the original network"}, {0}};
static const struct qp_port outputs[] = {
    {.name = "out", .provides = provides, .help = "the same with statistics at each site"}, {0}};

static bool wants_anything(const struct qp_stage *stage)
{
    for (size_t i = 0; collects[i]; i++)
        if (qp_stage_wants(stage, collects[i]))
            return true;
    return false;
}

static int start(struct qp_stage *stage, void *state, struct qp_error *err)
{
    struct state *s = state;
    s->kernels = qp_stage_kernels(stage);
    s->collecting = wants_anything(stage);
    if (!s->collecting)
        return 0;
    int r = qp_model_windows(&s->model, json_object_get(qp_stage_context(stage), "data"), &s->windows, err);
    if (r == 0)
        r = qp_text_open(&s->model.arch, &s->windows, &s->text, err);
    if (r == 0)
        r = qp_stream_open(&s->windows, s->model.arch.hidden, qp_stage_scratch(stage), &s->stream, err);
    return r;
}

static int new_stat(struct qp_stage *stage, const struct qp_block *block, int site, const char *stat, int rank,
                    float fill, struct qp_tensor **out, struct qp_error *err)
{
    const struct qp_site_desc *desc = &block->arch->family->sites[site];
    if (!qp_stage_wants(stage, stat))
        return 0;
    int64_t n = qp_arch_dim(block->arch, desc->dim), shape[2] = {n, n};
    char prefix[128], name[256];
    snprintf(prefix, sizeof prefix, block->arch->family->block, (int)block->layer);
    snprintf(name, sizeof name, "%s.%s.%s", prefix, desc->name, stat);
    int r = qp_allocate(qp_stage_allocator(stage), name, QP_F32, rank, shape, out, err);
    if (r < 0)
        return r;
    for (int64_t i = 0; i < (*out)->elements; i++)
        ((float *)(*out)->data)[i] = fill;
    return 0;
}

static int open_site(struct qp_stage *stage, const struct qp_block *block, int site, struct site_stats *t,
                     struct qp_error *err)
{
    *t = (struct site_stats){0};
    int r = new_stat(stage, block, site, "second_moment", 2, 0.0f, &t->second_moment, err);
    if (r == 0)
        r = new_stat(stage, block, site, "absmax", 1, 0.0f, &t->absmax, err);
    if (r == 0)
        r = new_stat(stage, block, site, "min", 1, INFINITY, &t->min, err);
    if (r == 0)
        r = new_stat(stage, block, site, "max", 1, -INFINITY, &t->max, err);
    if (r == 0)
        r = new_stat(stage, block, site, "absmean", 1, 0.0f, &t->absmean, err);
    if (r < 0 || !t->absmean)
        return r;
    t->abssum = qp_new_array(t->absmean->elements, sizeof(double), "a site's statistics", err);
    if (!t->abssum)
        return QP_ERR_ROOM;
    memset(t->abssum, 0, (size_t)t->absmean->elements * sizeof(double));
    return 0;
}

static float *values(struct qp_tensor *tensor)
{
    return tensor ? tensor->data : NULL;
}

static int collect(void *context, enum qp_site site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct state *s = context;
    struct site_stats *t = &s->sites[site];
    if (t->second_moment)
        s->kernels->second_moment(rows, in, x, t->second_moment->data);
    if (t->absmax || t->abssum || t->min || t->max)
        s->kernels->column_stats(rows, in, x, values(t->absmax), t->abssum, values(t->min), values(t->max));
    t->tokens += rows;
    return 0;
}

/* Moves a finished statistic into the unit. */
static int put(struct qp_unit *unit, struct qp_tensor **tensor, struct qp_error *err)
{
    struct qp_tensor *t = *tensor;
    *tensor = NULL;
    return t ? qp_unit_put(unit, t, err) : 0;
}

static int close_site(struct state *s, struct site_stats *t, struct qp_unit *unit, struct qp_error *err)
{
    if (t->second_moment)
        s->kernels->mirror(t->second_moment->shape[0], t->second_moment->data);
    for (int64_t i = 0; t->absmean && i < t->absmean->elements; i++)
        values(t->absmean)[i] = (float)(t->abssum[i] / (double)t->tokens);
    int r = put(unit, &t->second_moment, err);
    if (r == 0)
        r = put(unit, &t->absmax, err);
    if (r == 0)
        r = put(unit, &t->absmean, err);
    if (r == 0)
        r = put(unit, &t->min, err);
    return r < 0 ? r : put(unit, &t->max, err);
}

static void drop_site(struct site_stats *t)
{
    qp_tensor_unref(t->second_moment);
    qp_tensor_unref(t->absmax);
    qp_tensor_unref(t->absmean);
    qp_tensor_unref(t->min);
    qp_tensor_unref(t->max);
    free(t->abssum);
    *t = (struct site_stats){0};
}

static int calibrate_layer(struct qp_stage *stage, struct state *s, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < QP_SITES && r == 0; i++)
        r = open_site(stage, block, i, &s->sites[i], err);
    struct qp_layer layer = {0};
    if (r == 0)
        r = qp_layer_load(block, QP_ORIGINAL, NULL, &layer, err);
    if (r == 0)
        r = qp_text_forward(&s->text, &layer, &s->stream, collect, s, err);
    qp_layer_free(&layer);
    for (int i = 0; i < QP_SITES && r == 0; i++)
        r = close_site(s, &s->sites[i], block->unit, err);
    json_object_set_new(block->unit->attrs, "tokens", json_integer(s->sites[0].tokens));
    for (int i = 0; i < QP_SITES; i++)
        drop_site(&s->sites[i]);
    return r;
}

static int calibrate(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    struct state *s = state;
    if (!s->collecting)
        return 0;
    if (qp_block_is_layer(block))
        return calibrate_layer(stage, s, block, err);
    return block->layer < 0 ? qp_text_embed(&s->text, block, &s->stream, err) : 0;
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
    .collects = collects,
    .data = "calibration",
    .stateful = true,
    .process = process,
    .close = close_,
};
