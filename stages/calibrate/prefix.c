#include "stages/calibrate/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "stages/calibrate/drift.h"

#define PART_TOKENS 2048

struct qp_prefix {
    const struct qp_model *model;
    const struct qp_text *text;
    struct qp_stream quantized, original; /* original: no memory unless drift is wanted */
    int64_t windows;                      /* of a part */
    float *part;                          /* a part's hidden states, on their way through original weights */
};

/* What a part's inputs are for. */
struct audience {
    struct qp_statistics *statistics;
    struct qp_drift *drift; /* NULL: not wanted */
};

static int open_streams(struct qp_stage *stage, struct qp_prefix *p, struct qp_error *err)
{
    const struct qp_windows *windows = p->text->windows;
    int64_t hidden = p->model->arch.hidden;
    p->windows = windows->length < PART_TOKENS ? PART_TOKENS / windows->length : 1;
    p->windows = p->windows < windows->count ? p->windows : windows->count;
    p->part = qp_new_floats(p->windows * windows->length * hidden, "hidden states", err);
    int r = p->part ? qp_stream_open(windows, hidden, qp_stage_scratch(stage), &p->quantized, err) : QP_ERR_ROOM;
    if (r == 0 && qp_stage_wants(stage, "drift"))
        r = qp_stream_open(windows, hidden, qp_stage_scratch(stage), &p->original, err);
    return r;
}

int qp_prefix_open(struct qp_stage *stage, const struct qp_model *model, const struct qp_text *text,
                   struct qp_prefix **out, struct qp_error *err)
{
    if (model->scheme->budget)
        return qp_fail(err, QP_ERR_INPUT,
                       "feedback brings each block back before the next one goes, and a budget is spent when all have "
                       "been seen: run the budget without feedback, then this with the scheme that it chose");
    struct qp_prefix *p = calloc(1, sizeof *p);
    if (!p)
        return qp_fail_memory(err, sizeof *p, "feedback");
    p->model = model;
    p->text = text;
    int r = open_streams(stage, p, err);
    if (r < 0) {
        qp_prefix_free(p);
        return r;
    }
    *out = p;
    return 0;
}

void qp_prefix_free(struct qp_prefix *prefix)
{
    if (!prefix)
        return;
    qp_stream_close(&prefix->quantized);
    qp_stream_close(&prefix->original);
    free(prefix->part);
    free(prefix);
}

static int take_site(void *context, enum qp_site site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    const struct audience *a = context;
    if (a->drift)
        qp_drift_quantized(a->drift, site, x, rows, in);
    return qp_statistics_site(a->statistics, site, x, rows, in, err);
}

static int take_cache(void *context, const float *keys, const float *values, int64_t rows, int64_t dim,
                      struct qp_error *err)
{
    return qp_statistics_cache(((const struct audience *)context)->statistics, keys, values, rows, dim, err);
}

static int forward(const struct qp_prefix *p, const struct qp_layer *layer, int64_t windows, float *x,
                   const struct qp_taps *taps, struct qp_error *err)
{
    return qp_layer_forward(layer, windows, p->text->windows->length, p->text->cos, p->text->sin, x, p->text->workspace,
                            taps, err);
}

/* The hidden states behind quantized layers stay where they are: they go on when the layer is back, quantized. */
static int collect_part(struct qp_prefix *p, const struct qp_layer *layer, struct audience *a, int64_t first,
                        int64_t windows, struct qp_error *err)
{
    int64_t size = p->text->windows->length * p->model->arch.hidden;
    struct qp_taps quantized = {.site = take_site, .cache = take_cache, .context = a};
    struct qp_taps original = {.site = qp_drift_original, .context = a->drift};
    memcpy(p->part, p->quantized.x + first * size, (size_t)(windows * size) * sizeof *p->part);
    if (a->drift)
        qp_drift_begin(a->drift);
    int r = forward(p, layer, windows, p->part, &quantized, err);
    if (r == 0 && a->drift)
        r = forward(p, layer, windows, p->original.x + first * size, &original, err);
    return r;
}

static int collect_parts(struct qp_prefix *p, struct qp_stage *stage, const struct qp_layer *layer, struct audience *a,
                         struct qp_error *err)
{
    int64_t count = p->text->windows->count;
    int r = 0;
    for (int64_t first = 0; first < count && r == 0; first += p->windows) {
        if (qp_stage_cancelled(stage))
            return qp_fail(err, QP_ERR_INTERRUPTED, "cancelled");
        r = collect_part(p, layer, a, first, count - first < p->windows ? count - first : p->windows, err);
    }
    return r;
}

int qp_prefix_collect(struct qp_prefix *p, struct qp_stage *stage, struct qp_block *block,
                      struct qp_statistics *statistics, struct qp_error *err)
{
    struct audience a = {.statistics = statistics};
    struct qp_layer layer = {0};
    int r = qp_layer_load(block, QP_ORIGINAL, NULL, &layer, err);
    if (r == 0 && p->original.x)
        r = qp_drift_open(stage, block, p->windows * p->text->windows->length, &a.drift, err);
    if (r == 0)
        r = collect_parts(p, stage, &layer, &a, err);
    if (r == 0 && a.drift)
        r = qp_drift_put(a.drift, block->unit, err);
    qp_drift_free(a.drift);
    qp_layer_free(&layer);
    return r;
}

int qp_prefix_embed(struct qp_prefix *p, const struct qp_block *embedding, struct qp_error *err)
{
    return p->original.x ? qp_text_embed(p->text, embedding, QP_ORIGINAL, &p->original, err) : 0;
}

int qp_prefix_advance(struct qp_prefix *p, const struct qp_block *block, struct qp_error *err)
{
    if (block->layer < 0)
        return qp_text_embed(p->text, block, QP_QUANTIZED, &p->quantized, err);
    if (block->layer >= p->model->arch.layers - 1) /* nothing follows that has statistics */
        return 0;
    struct qp_layer layer;
    int r = qp_layer_load(block, QP_QUANTIZED, p->model->scheme, &layer, err);
    if (r < 0)
        return r;
    r = qp_text_forward(p->text, &layer, &p->quantized, NULL, err);
    qp_layer_free(&layer);
    return r;
}
