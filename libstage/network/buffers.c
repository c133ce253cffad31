#include "libstage/network/buffers.h"

#include <stdlib.h>

/* From the operation that first writes a buffer to the last that reads it. */
struct live_range {
    int first, last;
    int64_t floats; /* a token */
};

static bool reads(const struct qp_op *op, int buffer)
{
    for (int i = 0; i < 3; i++)
        if (op->in[i].width > 0 && op->in[i].buffer == buffer)
            return true;
    return op->add && op->out.buffer == buffer;
}

static bool touches(const struct qp_op *op, int buffer)
{
    return reads(op, buffer) || (op->out.width > 0 && op->out.buffer == buffer);
}

static bool is_input_of_linear(const struct qp_layer_type *type, int buffer)
{
    for (int i = 0; i < type->op_count; i++)
        if (type->ops[i].kind == QP_OP_LINEAR && reads(&type->ops[i], buffer))
            return true;
    return false;
}

static struct live_range live_range_of(const struct qp_layer_type *type, int buffer, bool half)
{
    struct live_range range = {type->op_count, -1, 0};
    for (int i = 0; i < type->op_count; i++)
        if (touches(&type->ops[i], buffer)) {
            range.first = i < range.first ? i : range.first;
            range.last = i;
        }
    int64_t width = type->buffers[buffer];
    range.floats = ((half ? (width + 1) / 2 : width) + 15) / 16 * 16; /* a cache line for each */
    return range;
}

/* Whether floats that are needed in `range` can be at `at`; `except`: a buffer that may be there as well. */
static bool is_free(const struct live_range *lives, const struct qp_buffer *placed, int count,
                    const struct live_range *range, int64_t at, int except)
{
    for (int i = 1; i < count; i++) {
        bool overlap = at < placed[i].at + lives[i].floats && placed[i].at < at + range->floats;
        bool apart = lives[i].last < range->first || range->last < lives[i].first;
        if (overlap && !apart && i != except)
            return false;
    }
    return true;
}

/* The lowest place for floats that are needed in `range`, beside those of the buffers before: at 0 or after one. */
static int64_t place(const struct live_range *lives, const struct qp_buffer *placed, int count,
                     const struct live_range *range)
{
    int64_t best = is_free(lives, placed, count, range, 0, 0) ? 0 : INT64_MAX;
    for (int i = 1; i < count && best > 0; i++) {
        int64_t at = placed[i].at + lives[i].floats;
        if (at < best && is_free(lives, placed, count, range, at, 0))
            best = at;
    }
    return best;
}

/* A gated unit may write where its first input is, which nobody reads again: that buffer, or 0. */
static int in_place_of(const struct qp_layer_type *type, const struct live_range *lives, const struct qp_buffer *placed,
                       int buffer)
{
    const struct qp_op *op = &type->ops[lives[buffer].first];
    int in = op->in[0].buffer;
    bool whole = op->in[0].width == type->buffers[in] && !placed[in].half && !placed[buffer].half;
    bool dies = in > 0 && in < buffer && lives[in].last == lives[buffer].first;
    bool same = op->kind == QP_OP_GATED && whole && dies && lives[in].floats == lives[buffer].floats;
    return same && is_free(lives, placed, buffer, &lives[buffer], placed[in].at, in) ? in : 0;
}

static int64_t widest_site(const struct qp_layer_type *type)
{
    int64_t widest = 0;
    for (int s = 0; s < type->site_count; s++)
        widest = type->sites[s].in > widest ? type->sites[s].in : widest;
    return widest;
}

/* Inputs of sites in float32 are needed at sites alone, at the same place for all. */
static int64_t place_wide(const struct qp_layer_type *type, const struct live_range *lives,
                          const struct qp_buffer *placed, int64_t *end)
{
    int64_t widest = (widest_site(type) + 15) / 16 * 16, highest = 0;
    for (int i = 0; i < type->op_count; i++) {
        struct live_range range = {i, i, widest};
        int64_t here = type->ops[i].kind == QP_OP_SITE ? place(lives, placed, type->buffer_count, &range) : 0;
        highest = here > highest ? here : highest;
    }
    for (int i = 0; i < type->op_count; i++) { /* free at every site, or after all else */
        struct live_range range = {i, i, widest};
        if (type->ops[i].kind == QP_OP_SITE && !is_free(lives, placed, type->buffer_count, &range, highest, 0))
            highest = *end;
    }
    *end = highest + widest > *end ? highest + widest : *end;
    return highest;
}

static int64_t code_floats(const struct qp_layer *layer)
{
    for (int l = 0; l < layer->type->linear_count; l++)
        if (layer->int8[l].codes)
            return (widest_site(layer->type) + 3) / 4 + 2;
    return 0;
}

int qp_layer_plan(struct qp_layer *layer, struct qp_error *err)
{
    const struct qp_layer_type *type = layer->type;
    size_t count = (size_t)type->buffer_count;
    struct qp_buffer_plan *plan = calloc(1, sizeof *plan + count * sizeof *plan->buffers);
    struct live_range *lives = calloc(count, sizeof *lives);
    int64_t end = 0;
    if (!plan || !lives) {
        free(plan);
        free(lives);
        return qp_fail_memory(err, count * sizeof *lives, "the buffers of a decoder layer");
    }
    for (int b = 1; b < type->buffer_count; b++) {
        struct qp_buffer *buffer = &plan->buffers[b];
        buffer->half = layer->compute == QP_BF16 && is_input_of_linear(type, b);
        lives[b] = live_range_of(type, b, buffer->half);
        int in = in_place_of(type, lives, plan->buffers, b);
        buffer->at = in ? plan->buffers[in].at : place(lives, plan->buffers, b, &lives[b]);
        end = buffer->at + lives[b].floats > end ? buffer->at + lives[b].floats : end;
    }
    if (layer->compute == QP_BF16)
        plan->wide = place_wide(type, lives, plan->buffers, &end);
    plan->codes = code_floats(layer) > 0 ? end : -1;
    plan->floats = end + code_floats(layer);
    free(lives);
    layer->plan = plan;
    return 0;
}
