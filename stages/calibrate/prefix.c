#include "stages/calibrate/prefix.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "stages/calibrate/asymmetry.h"

#define PART_TOKENS 2048

struct qp_prefix {
    const struct qp_model *model;
    const struct qp_text *text;
    const struct qp_allocator *allocator;
    struct qp_unit *so_far; /* of a layer in true-sequential steps: what the former ones came to; NULL: nothing */
    /* In float32 whatever is computed: rounded to BF16 between blocks, hidden states after quantized blocks no longer
     * gave better networks than original ones. original: no memory unless asymmetry is wanted. */
    struct qp_hidden_states quantized, original;
    int64_t windows; /* of a part */
    float *part;     /* a part's hidden states, on their way through original weights */
};

/* What a layer's inputs are for, and what they go through. */
struct pass {
    struct qp_statistics *statistics;
    struct qp_asymmetry *asymmetry; /* NULL: not wanted */
    struct qp_layer now, own;       /* as it is by this step; as it was, if that is another */
    const struct qp_layer *quantized, *original;
    bool last; /* the original hidden states move on */
};

static int open_states(struct qp_stage *stage, struct qp_prefix *p, struct qp_error *err)
{
    const struct qp_windows *windows = p->text->windows;
    int64_t hidden = p->model->arch.hidden;
    p->windows = windows->length < PART_TOKENS ? PART_TOKENS / windows->length : 1;
    p->windows = p->windows < windows->count ? p->windows : windows->count;
    p->part = qp_new_floats(p->windows * windows->length * hidden, "hidden states", err);
    int r = p->part ? qp_hidden_open(windows, hidden, qp_stage_scratch(stage), &p->quantized, err) : QP_ERR_SPACE;
    if (r == 0 && qp_stage_wants(stage, "asymmetry"))
        r = qp_hidden_open(windows, hidden, qp_stage_scratch(stage), &p->original, err);
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
    p->allocator = qp_stage_allocator(stage);
    int r = open_states(stage, p, err);
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
    qp_hidden_close(&prefix->quantized);
    qp_hidden_close(&prefix->original);
    qp_unit_free(prefix->so_far);
    free(prefix->part);
    free(prefix);
}

static int take_site(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    const struct pass *pass = context;
    if (pass->asymmetry)
        qp_asymmetry_quantized(pass->asymmetry, site, QP_F32, x, rows, in);
    return qp_statistics_site(pass->statistics, site, x, rows, in, err);
}

static int take_site_bf16(void *context, int site, const uint16_t *x, int64_t rows, int64_t in, struct qp_error *err)
{
    const struct pass *pass = context;
    if (pass->asymmetry)
        qp_asymmetry_quantized(pass->asymmetry, site, QP_BF16, x, rows, in);
    return qp_statistics_site_bf16(pass->statistics, site, x, rows, in, err);
}

static int take_cache(void *context, const float *keys, const float *values, int64_t rows, int64_t dim,
                      struct qp_error *err)
{
    return qp_statistics_cache(((const struct pass *)context)->statistics, keys, values, rows, dim, err);
}

static int forward(const struct qp_prefix *p, const struct qp_layer *layer, int64_t windows, float *x,
                   const struct qp_taps *taps, struct qp_error *err)
{
    return qp_layer_forward(layer, &(struct qp_sequences){windows, p->text->windows->length, x}, &p->text->rotations,
                            p->text->workspace, taps, err);
}

/* A part's hidden states, where a forward may change them. */
static float *part_of(struct qp_prefix *p, const struct qp_hidden_states *states, int64_t first, int64_t windows)
{
    int64_t size = p->text->windows->length * p->model->arch.hidden;
    memcpy(p->part, states->x + first * size, (size_t)(windows * size) * sizeof *p->part);
    return p->part;
}

/* The hidden states after quantized layers stay where they are: they go on when the layer is back, quantized. */
static int collect_part(struct qp_prefix *p, struct pass *pass, int64_t first, int64_t windows, struct qp_error *err)
{
    struct qp_taps quantized = {.site = take_site, .site_bf16 = take_site_bf16, .cache = take_cache, .context = pass};
    struct qp_taps original = {.site = qp_asymmetry_original, .context = pass->asymmetry};
    if (pass->asymmetry)
        qp_asymmetry_begin(pass->asymmetry);
    int r = forward(p, pass->quantized, windows, part_of(p, &p->quantized, first, windows), &quantized, err);
    if (r < 0 || !pass->asymmetry)
        return r;
    float *x = pass->last ? p->original.x + first * p->text->windows->length * p->model->arch.hidden
                          : part_of(p, &p->original, first, windows);
    return forward(p, pass->original, windows, x, &original, err);
}

static int collect_parts(struct qp_prefix *p, struct qp_stage *stage, struct pass *pass, struct qp_error *err)
{
    int64_t count = p->text->windows->count;
    int r = 0;
    for (int64_t first = 0; first < count && r == 0; first += p->windows) {
        if (qp_stage_cancelled(stage))
            return qp_fail(err, QP_ERR_INTERRUPTED, "cancelled");
        r = collect_part(p, pass, first, count - first < p->windows ? count - first : p->windows, err);
    }
    return r;
}

/* Before anything of a layer is quantized both networks have its original weights. */
static int load_layers(const struct qp_prefix *p, const struct qp_block *block, struct pass *pass, struct qp_error *err)
{
    bool mixed = block->step > 1;
    pass->last = block->step == 0 || block->step == block->type->site_count;
    pass->quantized = &pass->now;
    pass->original = mixed ? &pass->own : &pass->now;
    int r = qp_layer_load(block, mixed ? QP_QUANTIZED : QP_ORIGINAL, p->model->scheme, &pass->now, err);
    return r == 0 && mixed && p->original.x ? qp_layer_load(block, QP_ORIGINAL, NULL, &pass->own, err) : r;
}

/* Puts what former steps came to into the unit of this one. */
static int recall(const struct qp_prefix *p, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    if (block->step <= 1)
        return 0;
    if (!p->so_far)
        return qp_fail(err, QP_ERR_INPUT, "step %d of layer %lld came before the one before it was back", block->step,
                       (long long)block->layer);
    for (size_t i = 0; r == 0 && i < p->so_far->count; i++)
        r = qp_unit_put(block->unit, qp_tensor_ref(p->so_far->tensors[i]), err);
    return r;
}

int qp_prefix_collect(struct qp_prefix *p, struct qp_stage *stage, struct qp_block *block,
                      struct qp_statistics *statistics, struct qp_error *err)
{
    struct pass pass = {.statistics = statistics};
    int r = recall(p, block, err);
    if (r == 0)
        r = load_layers(p, block, &pass, err);
    if (r == 0 && p->original.x)
        r = qp_asymmetry_open(stage, block, p->text->windows, p->windows * p->text->windows->length, &pass.asymmetry,
                              err);
    if (r == 0)
        r = collect_parts(p, stage, &pass, err);
    if (r == 0 && pass.asymmetry)
        r = qp_asymmetry_put(pass.asymmetry, block->unit, err);
    qp_asymmetry_free(pass.asymmetry);
    qp_layer_free(&pass.now);
    qp_layer_free(&pass.own);
    return r;
}

int qp_prefix_embed(struct qp_prefix *p, const struct qp_block *embedding, struct qp_error *err)
{
    return p->original.x ? qp_text_embed(p->text, embedding, QP_ORIGINAL, &p->original, err) : 0;
}

/* Copies, as the unit's own tensors are memory of the stages that made them. */
static int keep(struct qp_prefix *p, const struct qp_block *block, struct qp_error *err)
{
    const struct qp_unit *unit = block->unit;
    int r = p->so_far ? 0 : qp_unit_new(QP_UNIT_BLOCK, unit->seq, &p->so_far, err);
    for (size_t i = 0; r == 0 && i < unit->count; i++) {
        const struct qp_tensor *t = unit->tensors[i];
        struct qp_tensor *copy;
        if (qp_tensor_is_own(block->arch, t) || qp_unit_find(p->so_far, t->name))
            continue;
        r = qp_allocate(p->allocator, t->name, t->dtype, t->rank, t->shape, &copy, err);
        if (r < 0)
            return r;
        memcpy(copy->data, t->data, t->bytes);
        r = qp_unit_put(p->so_far, copy, err);
    }
    return r;
}

int qp_prefix_advance(struct qp_prefix *p, const struct qp_block *block, struct qp_error *err)
{
    if (block->step > 0 && block->step < block->type->site_count)
        return keep(p, block, err);
    qp_unit_free(p->so_far);
    p->so_far = NULL;
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
