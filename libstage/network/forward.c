/* The executor: a decoder layer's forward is its graph (arch.h), operation by operation. */
#include "libstage/network/block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/buffers.h"
#include "libstage/tensor/operations.h"

#define CHUNK_TOKENS 2048

struct qp_workspace {
    float *memory;
    size_t count;
};

int qp_workspace_new(struct qp_workspace **out, struct qp_error *err)
{
    *out = calloc(1, sizeof **out);
    return *out ? 0 : qp_fail_memory(err, sizeof **out, "a workspace");
}

void qp_workspace_free(struct qp_workspace *workspace)
{
    if (workspace)
        free(workspace->memory);
    free(workspace);
}

void qp_workspace_empty(struct qp_workspace *workspace)
{
    free(workspace->memory);
    *workspace = (struct qp_workspace){0};
}

static int reserve(struct qp_workspace *w, uint64_t count, struct qp_error *err)
{
    if (count <= w->count)
        return 0;
    free(w->memory);
    w->memory = NULL;
    w->count = 0;
    uint64_t bytes;
    if (!qp_mul_u64((count + 15) / 16 * 16, sizeof(float), &bytes) || !(w->memory = aligned_alloc(64, bytes)))
        return qp_fail_memory(err, count * sizeof(float), "a forward's activations");
    w->count = count;
    return 0;
}

/* One chunk of whole sequences on its way through a layer. */
struct chunk {
    const struct qp_layer *layer;
    int64_t sequences, length, rows;
    const struct qp_rotations *rotations;
    const struct qp_taps *taps;
    float *x;      /* the residual stream */
    float *memory; /* of all other buffers, as layer->plan has them */
    float *low;    /* what low-rank corrections make of a site's input */
};

static bool is_half(const struct chunk *c, const struct qp_view *view)
{
    return c->layer->plan->buffers[view->buffer].half;
}

/* Where a view's first row starts; rows are row_of(c, view) numbers apart. */
static void *at(const struct chunk *c, const struct qp_view *view)
{
    float *start = view->buffer == 0 ? c->x : c->memory + c->layer->plan->buffers[view->buffer].at * c->rows;
    return is_half(c, view) ? (void *)((uint16_t *)start + view->offset) : start + view->offset;
}

static int64_t row_of(const struct chunk *c, const struct qp_view *view)
{
    return c->layer->type->buffers[view->buffer];
}

/* The input of a site in float32, of a layer that computes in BF16. */
static float *wide_of(const struct chunk *c)
{
    return c->memory + c->layer->plan->wide * c->rows;
}

/* Codes of a site's input, with a scale and a zero point a row. */
struct codes {
    float *scale;
    int8_t *zero, *codes;
};

static struct codes codes_of(const struct chunk *c)
{
    float *start = c->memory + c->layer->plan->codes * c->rows;
    return (struct codes){start, (int8_t *)(start + c->rows), (int8_t *)(start + 2 * c->rows)};
}

/* With a scale that is known beforehand. */
static void quantize_with(const struct qp_kernels *kernels, const struct qp_number_format *format, float scale,
                          int64_t count, float *x)
{
    enum { PIECE = 4096 };
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += PIECE) {
        uint8_t codes[PIECE];
        int64_t n = count - at < PIECE ? count - at : PIECE;
        kernels->quantize(&(struct qp_grouped){format, 1, n, 0, &scale, NULL}, x + at, codes);
        kernels->dequantize(&(struct qp_grouped){format, 1, n, 0, &scale, NULL}, codes, x + at);
    }
}

/* As an engine does it; with one range a tensor, a sequence is a tensor, so that chunks make no difference. */
static void quantize_activations(const struct chunk *c, int site, int64_t n, float *x)
{
    const struct qp_quant_spec *spec = &c->layer->activations[site];
    if (qp_spec_is_static(spec)) {
        quantize_with(c->layer->kernels, &spec->format, c->layer->input_scale[site], c->rows * n, x);
        return;
    }
    int64_t group = qp_spec_group(spec, n), step = group ? c->rows : c->length;
    for (int64_t row = 0; row < c->rows; row += step)
        c->layer->kernels->fake_quantize(&spec->format, step, n, group, x + row * n);
}

/* Whether a linear of the site multiplies codes, or whether one does not. */
static bool has_linear(const struct qp_layer *layer, int site, bool coded)
{
    for (int l = 0; l < layer->type->linear_count; l++)
        if (layer->type->linears[l].site == site && coded == (layer->int8[l].codes != NULL))
            return true;
    return false;
}

/* The first row's scale and zero point to all. */
static void spread(int64_t rows, float *scale, int8_t *zero)
{
    for (int64_t i = 1; i < rows; i++) {
        scale[i] = scale[0];
        zero[i] = zero[0];
    }
}

/* One scale and zero point a row, whatever it is that has one range. */
static void find_ranges(const struct chunk *c, const struct codes *b, int site, int64_t n, const float *x)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_quant_spec *spec = &layer->activations[site];
    if (qp_spec_is_static(spec)) {
        b->scale[0] = layer->input_scale[site];
        b->zero[0] = 0;
        spread(c->rows, b->scale, b->zero);
    } else if (qp_spec_group(spec, n))
        layer->kernels->qparams(&spec->format, c->rows, n, n, x, b->scale, b->zero);
    else
        for (int64_t row = 0; row < c->rows; row += c->length) {
            layer->kernels->qparams(&spec->format, c->length, n, 0, x + row * n, b->scale + row, b->zero + row);
            spread(c->length, b->scale + row, b->zero + row);
        }
}

static void quantize_site(const struct chunk *c, int site, int64_t n, float *x)
{
    const struct qp_layer *layer = c->layer;
    if (has_linear(layer, site, true)) {
        struct codes b = codes_of(c);
        find_ranges(c, &b, site, n, x);
        layer->kernels->quantize(&(struct qp_grouped){&layer->activations[site].format, c->rows, n, n, b.scale, b.zero},
                                 x, (uint8_t *)b.codes);
    }
    if (has_linear(layer, site, false))
        quantize_activations(c, site, n, x);
}

static int reach_float_site(const struct chunk *c, int site, int64_t n, float *x, struct qp_error *err)
{
    int r = c->taps->site ? c->taps->site(c->taps->context, site, x, c->rows, n, err) : 0;
    qp_low_rank_enter(c->layer, site, c->rows, n, x, c->low);
    if (r == 0 && c->layer->activations[site].enabled)
        quantize_site(c, site, n, x);
    return r;
}

static int reach_bf16_site(const struct chunk *c, int site, int64_t n, uint16_t *x, struct qp_error *err)
{
    const struct qp_layer *layer = c->layer;
    bool quantized = layer->activations[site].enabled, shown = c->taps->site && !c->taps->site_bf16;
    bool corrected = qp_low_rank_reads(layer, site);
    int r = c->taps->site_bf16 ? c->taps->site_bf16(c->taps->context, site, x, c->rows, n, err) : 0;
    if (r < 0 || (!quantized && !shown && !corrected))
        return r;
    float *wide = wide_of(c);
    layer->kernels->to_f32(QP_BF16, c->rows * n, x, wide);
    if (shown)
        r = c->taps->site(c->taps->context, site, wide, c->rows, n, err);
    qp_low_rank_enter(layer, site, c->rows, n, wide, c->low);
    if (r < 0 || !quantized)
        return r;
    quantize_site(c, site, n, wide);
    if (has_linear(layer, site, false))
        layer->kernels->from_f32(QP_BF16, c->rows * n, wide, x);
    return 0;
}

/* The site's input is complete: show it, then quantize it. */
static int run_site(const struct chunk *c, const struct qp_op *op, struct qp_error *err)
{
    const struct qp_view *in = &op->in[0];
    return is_half(c, in) ? reach_bf16_site(c, op->index, in->width, at(c, in), err)
                          : reach_float_site(c, op->index, in->width, at(c, in), err);
}

/* Keys and values are as a cache would hold them: show them, then quantize them. */
static int run_cache(const struct chunk *c, const struct qp_op *op, struct qp_error *err)
{
    const struct qp_layer *layer = c->layer;
    float *keys = at(c, &op->in[0]), *values = at(c, &op->in[1]);
    int64_t n = op->in[0].width;
    int r = c->taps->cache ? c->taps->cache(c->taps->context, keys, values, c->rows, n, err) : 0;
    if (r < 0 || !layer->cache.enabled)
        return r;
    quantize_with(layer->kernels, &layer->cache.format, layer->key_scale, c->rows * n, keys);
    quantize_with(layer->kernels, &layer->cache.format, layer->value_scale, c->rows * n, values);
    return 0;
}

static void multiply_codes(const struct chunk *c, int linear, bool add, float *y)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_quantized *w = &layer->int8[linear];
    struct codes b = codes_of(c);
    bool shifted = !layer->activations[layer->type->linears[linear].site].format.symmetric;
    layer->kernels->linear_int8(&(struct qp_linear_int8){.m = c->rows,
                                                         .n = w->rows,
                                                         .k = w->cols,
                                                         .x = b.codes,
                                                         .w = (const int8_t *)w->codes,
                                                         .x_scale = b.scale,
                                                         .w_scale = w->scale,
                                                         .x_zero = shifted ? b.zero : NULL,
                                                         .w_zero = w->zero,
                                                         .add = add,
                                                         .y = y});
}

/* y = x Wᵀ + b, or y += that. */
static void run_linear(const struct chunk *c, const struct qp_op *op)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_linear *d = &layer->type->linears[op->index];
    const float *bias = layer->bias[op->index];
    const void *x = at(c, &op->in[0]);
    float *y = at(c, &op->out);
    bool add = op->add || bias;
    for (int64_t r = 0; bias && r < c->rows; r++)
        for (int64_t i = 0; i < d->out; i++)
            y[r * d->out + i] = (op->add ? y[r * d->out + i] : 0.0f) + bias[i];
    if (layer->int8[op->index].codes)
        multiply_codes(c, op->index, add, y);
    else if (layer->compute == QP_BF16)
        layer->kernels->linear_bf16(c->rows, d->out, d->in, x, layer->bf16[op->index], add, y);
    else
        layer->kernels->gemm(&(struct qp_gemm){false, true, c->rows, d->out, d->in, 1.0f, x, d->in,
                                               layer->weight[op->index], d->in, add ? 1.0f : 0.0f, y, d->out});
    qp_low_rank_leave(layer, op->index, c->rows, c->low, y);
}

static void run_norm(const struct chunk *c, const struct qp_op *op)
{
    const struct qp_kernels *k = c->layer->kernels;
    const struct qp_norm *d = &c->layer->type->norms[op->index];
    const float *x = at(c, &op->in[0]), *gain = c->layer->norm[op->index], *bias = c->layer->norm_bias[op->index];
    int64_t rows = c->rows * op->heads;
    void *y = at(c, &op->out);
    if (d->kind == QP_NORM_LAYER && is_half(c, &op->out))
        k->layer_norm_bf16(rows, d->width, x, gain, bias, d->eps, y);
    else if (d->kind == QP_NORM_LAYER)
        k->layer_norm(rows, d->width, x, gain, bias, d->eps, y);
    else if (is_half(c, &op->out))
        k->rms_norm_bf16(rows, d->width, x, gain, d->eps, y);
    else
        k->rms_norm(rows, d->width, x, gain, d->eps, y);
}

static void run_rope(const struct chunk *c, const struct qp_op *op)
{
    const struct qp_view *x = &op->in[0];
    const struct qp_rope_config *rope = &c->layer->arch->ropes[op->index];
    c->layer->kernels->rope(&(struct qp_rope){.tokens = c->rows,
                                              .length = c->length,
                                              .heads = op->heads,
                                              .dim = c->layer->type->attention.head_dim,
                                              .rotary = rope->dim,
                                              .stride = row_of(c, x),
                                              .pairs = rope->pairs,
                                              .cos = c->rotations->cos[op->index],
                                              .sin = c->rotations->sin[op->index],
                                              .x = at(c, x)});
}

static void run_attention(const struct chunk *c, const struct qp_op *op)
{
    const struct qp_attention_shape *shape = &c->layer->type->attention;
    struct qp_attention a = {.sequences = c->sequences,
                             .length = c->length,
                             .heads = shape->heads,
                             .kv_heads = shape->kv_heads,
                             .dim = shape->head_dim,
                             .scale = shape->scale,
                             .cap = shape->cap,
                             .window = shape->window,
                             .q = at(c, &op->in[0]),
                             .k = at(c, &op->in[1]),
                             .v = at(c, &op->in[2]),
                             .q_stride = row_of(c, &op->in[0]),
                             .k_stride = row_of(c, &op->in[1]),
                             .v_stride = row_of(c, &op->in[2])};
    if (is_half(c, &op->out)) {
        c->layer->kernels->attention_bf16(&a, at(c, &op->out));
        return;
    }
    a.out = at(c, &op->out);
    a.out_stride = row_of(c, &op->out);
    c->layer->kernels->attention(&a);
}

static void run_gated(const struct chunk *c, const struct qp_op *op)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_gated gated = {.act = layer->type->act,
                                   .rows = c->rows,
                                   .n = op->out.width,
                                   .stride = row_of(c, &op->in[0]),
                                   .gate = at(c, &op->in[0]),
                                   .up = op->in[1].width ? at(c, &op->in[1]) : NULL,
                                   .xielu = layer->xielu};
    if (is_half(c, &op->out))
        layer->kernels->gated_bf16(&gated, at(c, &op->out));
    else
        layer->kernels->gated(&gated, at(c, &op->out));
}

/* Rows of a view that is part of a wider buffer are apart, those of a copy are not; rows without gaps are one. */
static void run_copy(const struct chunk *c, const struct qp_op *op)
{
    bool half = is_half(c, &op->out);
    int64_t width = op->out.width, stride = row_of(c, &op->in[0]), rows = c->rows;
    if (stride == width) {
        width *= rows;
        rows = 1;
    }
    const float *from = at(c, &op->in[0]);
    char *to = at(c, &op->out);
    for (int64_t r = 0; r < rows; r++, from += stride, to += (size_t)width * (half ? sizeof(uint16_t) : sizeof(float)))
        c->layer->kernels->from_f32(half ? QP_BF16 : QP_F32, width, from, to);
}

static int run_op(const struct chunk *c, const struct qp_op *op, struct qp_error *err)
{
    switch (op->kind) {
    case QP_OP_NORM:
        run_norm(c, op);
        break;
    case QP_OP_SITE:
        return run_site(c, op, err);
    case QP_OP_LINEAR:
        run_linear(c, op);
        break;
    case QP_OP_ROPE:
        run_rope(c, op);
        break;
    case QP_OP_CACHE:
        return run_cache(c, op, err);
    case QP_OP_ATTENTION:
        run_attention(c, op);
        break;
    case QP_OP_GATED:
        run_gated(c, op);
        break;
    case QP_OP_COPY:
        run_copy(c, op);
        break;
    case QP_OP_ADD:
        c->layer->kernels->add_scaled(c->rows * op->out.width, op->value, at(c, &op->in[0]), at(c, &op->out));
        break;
    }
    return 0;
}

/* Operations up to the last site, or all of them. */
static int op_count(const struct qp_layer_type *type, bool ends)
{
    int count = type->op_count;
    while (ends && count > 0 && type->ops[count - 1].kind != QP_OP_SITE)
        count--;
    return count;
}

int qp_layer_forward(const struct qp_layer *layer, const struct qp_sequences *sequences,
                     const struct qp_rotations *rotations, struct qp_workspace *workspace, const struct qp_taps *taps,
                     struct qp_error *err)
{
    static const struct qp_taps none;
    int64_t count = sequences->count, length = sequences->length;
    taps = taps ? taps : &none;
    int64_t step = length < CHUNK_TOKENS ? CHUNK_TOKENS / length : 1;
    if (step > count)
        step = count;
    uint64_t buffers = (uint64_t)(layer->plan->floats * step * length);
    int r = reserve(workspace, buffers + (uint64_t)(qp_low_rank_width(layer) * step * length), err);
    int ops = op_count(layer->type, taps->ends);
    for (int64_t s = 0; r == 0 && s < count; s += step) {
        int64_t n = count - s < step ? count - s : step;
        struct chunk c = {layer,
                          n,
                          length,
                          n * length,
                          rotations,
                          taps,
                          sequences->x + s * length * layer->arch->hidden,
                          workspace->memory,
                          workspace->memory + buffers};
        for (int i = 0; r == 0 && i < ops; i++) {
            r = qp_operations_go_on(err);
            if (r == 0)
                r = run_op(&c, &layer->type->ops[i], err);
        }
    }
    return r;
}
