/* A decoder layer's forward: h = x + O attention(QKV norm(x)), y = h + Down swiglu(GateUp norm(h)) (Touvron et al.
 * 2023; transformers' LlamaDecoderLayer). */
#include "libstage/model/block.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"
#include "libstage/model/block_internal.h"

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
    const float *cos, *sin;
    const struct qp_taps *taps;
    float *low; /* what low-rank corrections make of a site's input */
};

/* Buffers of a chunk; what attention needs and what the MLP needs share memory. Inputs of sites are float32 or BF16, as
 * the layer computes. In BF16 each is there only after its predecessor has been used, and between them there is room
 * for one in float32 where q or gate will be, or was. Linears that multiply codes find those of their input beside it,
 * with a scale and a zero point a row. */
struct buffers {
    void *normed, *mixed, *gated;
    float *q, *k, *v, *gate, *up, *wide;
    int8_t *codes, *zero;
    float *scale;
};

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t widest_input(const struct qp_arch *arch)
{
    return most(most(arch->hidden, arch->ffn), qp_arch_dim(arch, QP_DIM_Q));
}

/* Of one token: floats of the inputs of sites, if they are by themselves, of their codes, and of all else. */
static int64_t input_floats(const struct qp_layer *layer)
{
    return layer->compute == QP_BF16 ? (widest_input(layer->arch) + 1) / 2 : layer->arch->hidden;
}

static int64_t code_floats(const struct qp_layer *layer)
{
    bool any = false;
    for (int l = 0; l < QP_LINEARS; l++)
        any = any || layer->int8[l].codes;
    return any ? (widest_input(layer->arch) + 3) / 4 + 2 : 0;
}

static int64_t shared_floats(const struct qp_layer *layer)
{
    const struct qp_arch *arch = layer->arch;
    int64_t attention = 2 * qp_arch_dim(arch, QP_DIM_Q) + 2 * qp_arch_dim(arch, QP_DIM_KV);
    return most(most(attention, 2 * arch->ffn), arch->hidden);
}

static uint64_t buffer_floats(const struct qp_layer *layer, int64_t rows)
{
    return (uint64_t)((input_floats(layer) + shared_floats(layer) + code_floats(layer)) * rows);
}

static struct buffers buffers_in(float *memory, const struct qp_layer *layer, int64_t rows)
{
    const struct qp_arch *arch = layer->arch;
    int64_t q = qp_arch_dim(arch, QP_DIM_Q) * rows, kv = qp_arch_dim(arch, QP_DIM_KV) * rows;
    float *shared = memory + input_floats(layer) * rows, *scale = shared + shared_floats(layer) * rows;
    bool bf16 = layer->compute == QP_BF16;
    return (struct buffers){
        .normed = memory,
        .mixed = bf16 ? memory : shared + q + 2 * kv,
        .gated = bf16 ? memory : shared,
        .q = shared,
        .k = shared + q,
        .v = shared + q + kv,
        .gate = shared,
        .up = shared + arch->ffn * rows,
        .wide = shared,
        .scale = scale,
        .zero = (int8_t *)(scale + rows),
        .codes = (int8_t *)(scale + 2 * rows),
    };
}

/* With a scale that is known beforehand. */
static void quantize_with(const struct qp_kernels *kernels, const struct qp_grid *grid, float scale, int64_t count,
                          float *x)
{
    enum { PIECE = 4096 };
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += PIECE) {
        uint8_t codes[PIECE];
        int64_t n = count - at < PIECE ? count - at : PIECE;
        kernels->quantize(grid, 1, n, 0, x + at, &scale, NULL, codes);
        kernels->dequantize(grid, 1, n, 0, codes, &scale, NULL, x + at);
    }
}

/* As an engine does it; with one range a tensor, a sequence is a tensor, so that chunks make no difference. */
static void quantize_activations(const struct chunk *c, enum qp_site site, int64_t n, float *x)
{
    const struct qp_quant_spec *spec = &c->layer->activations[site];
    if (qp_spec_is_static(spec)) {
        quantize_with(c->layer->kernels, &spec->grid, c->layer->input_scale[site], c->rows * n, x);
        return;
    }
    int64_t group = qp_spec_group(spec, n), step = group ? c->rows : c->length;
    for (int64_t row = 0; row < c->rows; row += step)
        c->layer->kernels->fake_quantize(&spec->grid, step, n, group, x + row * n);
}

/* Whether a linear of the site multiplies codes, or whether one does not. */
static bool has_linear(const struct qp_layer *layer, enum qp_site site, bool coded)
{
    for (int l = 0; l < QP_LINEARS; l++)
        if (layer->arch->family->linears[l].site == site && coded == (layer->int8[l].codes != NULL))
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
static void find_ranges(const struct chunk *c, const struct buffers *b, enum qp_site site, int64_t n, const float *x)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_quant_spec *spec = &layer->activations[site];
    if (qp_spec_is_static(spec)) {
        b->scale[0] = layer->input_scale[site];
        b->zero[0] = 0;
        spread(c->rows, b->scale, b->zero);
    } else if (qp_spec_group(spec, n))
        layer->kernels->qparams(&spec->grid, c->rows, n, n, x, b->scale, b->zero);
    else
        for (int64_t row = 0; row < c->rows; row += c->length) {
            layer->kernels->qparams(&spec->grid, c->length, n, 0, x + row * n, b->scale + row, b->zero + row);
            spread(c->length, b->scale + row, b->zero + row);
        }
}

static void quantize_site(const struct chunk *c, const struct buffers *b, enum qp_site site, int64_t n, float *x)
{
    const struct qp_layer *layer = c->layer;
    if (has_linear(layer, site, true)) {
        find_ranges(c, b, site, n, x);
        layer->kernels->quantize(&layer->activations[site].grid, c->rows, n, n, x, b->scale, b->zero,
                                 (uint8_t *)b->codes);
    }
    if (has_linear(layer, site, false))
        quantize_activations(c, site, n, x);
}

static int reach_float_site(const struct chunk *c, const struct buffers *b, enum qp_site site, int64_t n, float *x,
                            struct qp_error *err)
{
    int r = c->taps->site ? c->taps->site(c->taps->context, site, x, c->rows, n, err) : 0;
    qp_low_rank_enter(c->layer, site, c->rows, n, x, c->low);
    if (r == 0 && c->layer->activations[site].enabled)
        quantize_site(c, b, site, n, x);
    return r;
}

static int reach_bf16_site(const struct chunk *c, const struct buffers *b, enum qp_site site, int64_t n, uint16_t *x,
                           struct qp_error *err)
{
    const struct qp_layer *layer = c->layer;
    bool quantized = layer->activations[site].enabled, shown = c->taps->site && !c->taps->site_bf16;
    bool corrected = qp_low_rank_reads(layer, site);
    int r = c->taps->site_bf16 ? c->taps->site_bf16(c->taps->context, site, x, c->rows, n, err) : 0;
    if (r < 0 || (!quantized && !shown && !corrected))
        return r;
    layer->kernels->to_f32(QP_BF16, c->rows * n, x, b->wide);
    if (shown)
        r = c->taps->site(c->taps->context, site, b->wide, c->rows, n, err);
    qp_low_rank_enter(layer, site, c->rows, n, b->wide, c->low);
    if (r < 0 || !quantized)
        return r;
    quantize_site(c, b, site, n, b->wide);
    if (has_linear(layer, site, false))
        layer->kernels->from_f32(QP_BF16, c->rows * n, b->wide, x);
    return 0;
}

/* The site's input is complete: show it, then quantize it. */
static int reach_site(const struct chunk *c, const struct buffers *b, enum qp_site site, void *x, struct qp_error *err)
{
    int64_t n = qp_arch_dim(c->layer->arch, c->layer->arch->family->sites[site].dim);
    return c->layer->compute == QP_BF16 ? reach_bf16_site(c, b, site, n, x, err)
                                        : reach_float_site(c, b, site, n, x, err);
}

/* Keys and values are as a cache would hold them: show them, then quantize them. */
static int reach_cache(const struct chunk *c, int64_t n, float *keys, float *values, struct qp_error *err)
{
    const struct qp_layer *layer = c->layer;
    int r = c->taps->cache ? c->taps->cache(c->taps->context, keys, values, c->rows, n, err) : 0;
    if (r < 0 || !layer->cache.enabled)
        return r;
    quantize_with(layer->kernels, &layer->cache.grid, layer->key_scale, c->rows * n, keys);
    quantize_with(layer->kernels, &layer->cache.grid, layer->value_scale, c->rows * n, values);
    return 0;
}

static void multiply_codes(const struct chunk *c, const struct buffers *b, enum qp_linear linear, bool add, float *y)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_quantized *w = &layer->int8[linear];
    bool shifted = !layer->activations[layer->arch->family->linears[linear].site].grid.symmetric;
    layer->kernels->linear_int8(&(struct qp_linear_int8){.m = c->rows,
                                                         .n = w->rows,
                                                         .k = w->cols,
                                                         .x = b->codes,
                                                         .w = (const int8_t *)w->codes,
                                                         .x_scale = b->scale,
                                                         .w_scale = w->scale,
                                                         .x_zero = shifted ? b->zero : NULL,
                                                         .w_zero = w->zero,
                                                         .add = add,
                                                         .y = y});
}

/* y = x Wᵀ + b, or y += that. */
static void apply(const struct chunk *c, const struct buffers *b, enum qp_linear linear, bool add, const void *x,
                  float *y)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_arch *arch = layer->arch;
    const struct qp_linear_desc *d = &arch->family->linears[linear];
    const float *bias = layer->bias[linear];
    int64_t out = qp_arch_dim(arch, d->out), in = qp_arch_dim(arch, d->in);
    for (int64_t r = 0; bias && r < c->rows; r++)
        for (int64_t i = 0; i < out; i++)
            y[r * out + i] = (add ? y[r * out + i] : 0.0f) + bias[i];
    add = add || bias;
    if (layer->int8[linear].codes)
        multiply_codes(c, b, linear, add, y);
    else if (layer->compute == QP_BF16)
        layer->kernels->linear_bf16(c->rows, out, in, x, layer->bf16[linear], add, y);
    else
        layer->kernels->gemm(false, true, c->rows, out, in, 1.0f, x, in, layer->weight[linear], in, add ? 1.0f : 0.0f,
                             y, out);
    qp_low_rank_leave(layer, linear, c->rows, c->low, y);
}

static void normalize(const struct chunk *c, enum qp_norm norm, const float *x, void *y)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_arch *arch = layer->arch;
    if (layer->compute == QP_BF16)
        layer->kernels->rms_norm_bf16(c->rows, arch->hidden, x, layer->norm[norm], arch->norm_eps, y);
    else
        layer->kernels->rms_norm(c->rows, arch->hidden, x, layer->norm[norm], arch->norm_eps, y);
}

static void attend(const struct chunk *c, const struct buffers *b)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_arch *arch = layer->arch;
    int64_t q_dim = qp_arch_dim(arch, QP_DIM_Q), kv_dim = qp_arch_dim(arch, QP_DIM_KV);
    struct qp_attention a = {.sequences = c->sequences,
                             .length = c->length,
                             .heads = arch->heads,
                             .kv_heads = arch->kv_heads,
                             .dim = arch->head_dim,
                             .scale = (float)(1.0 / sqrt((double)arch->head_dim)),
                             .q = b->q,
                             .k = b->k,
                             .v = b->v,
                             .q_stride = q_dim,
                             .k_stride = kv_dim,
                             .v_stride = kv_dim};
    if (layer->compute == QP_BF16) {
        layer->kernels->attention_bf16(&a, b->mixed);
        return;
    }
    a.out = b->mixed;
    a.out_stride = q_dim;
    layer->kernels->attention(&a);
}

static void rotate(const struct chunk *c, int heads, float *x)
{
    int dim = c->layer->arch->head_dim;
    c->layer->kernels->rope(&(struct qp_rope){.tokens = c->rows,
                                              .length = c->length,
                                              .heads = heads,
                                              .dim = dim,
                                              .rotary = dim,
                                              .stride = (int64_t)heads * dim,
                                              .cos = c->cos,
                                              .sin = c->sin,
                                              .x = x});
}

static int forward_attention(const struct chunk *c, const struct buffers *b, float *x, struct qp_error *err)
{
    const struct qp_layer *layer = c->layer;
    const struct qp_arch *arch = layer->arch;
    int64_t kv_dim = qp_arch_dim(arch, QP_DIM_KV);
    normalize(c, QP_NORM_ATTN, x, b->normed);
    int r = reach_site(c, b, QP_SITE_ATTN_IN, b->normed, err);
    if (r < 0)
        return r;
    apply(c, b, QP_Q, false, b->normed, b->q);
    apply(c, b, QP_K, false, b->normed, b->k);
    apply(c, b, QP_V, false, b->normed, b->v);
    rotate(c, arch->heads, b->q);
    rotate(c, arch->kv_heads, b->k);
    r = reach_cache(c, kv_dim, b->k, b->v, err);
    if (r < 0)
        return r;
    attend(c, b);
    r = reach_site(c, b, QP_SITE_ATTN_OUT, b->mixed, err);
    if (r == 0)
        apply(c, b, QP_O, true, b->mixed, x);
    return r;
}

static int forward_mlp(const struct chunk *c, const struct buffers *b, float *x, struct qp_error *err)
{
    const struct qp_layer *layer = c->layer;
    int64_t ffn = layer->arch->ffn;
    normalize(c, QP_NORM_MLP, x, b->normed);
    int r = reach_site(c, b, QP_SITE_MLP_IN, b->normed, err);
    if (r < 0)
        return r;
    apply(c, b, QP_GATE, false, b->normed, b->gate);
    apply(c, b, QP_UP, false, b->normed, b->up);
    struct qp_gated g = {.act = QP_ACT_SILU, .rows = c->rows, .n = ffn, .stride = ffn, .gate = b->gate, .up = b->up};
    if (layer->compute == QP_BF16)
        layer->kernels->gated_bf16(&g, b->gated);
    else
        layer->kernels->gated(&g, b->gated);
    r = reach_site(c, b, QP_SITE_MLP_OUT, b->gated, err);
    if (r == 0 && !c->taps->ends)
        apply(c, b, QP_DOWN, true, b->gated, x);
    return r;
}

int qp_layer_forward(const struct qp_layer *layer, int64_t sequences, int64_t length, const float *cos,
                     const float *sin, float *x, struct qp_workspace *workspace, const struct qp_taps *taps,
                     struct qp_error *err)
{
    static const struct qp_taps none;
    int64_t step = length < CHUNK_TOKENS ? CHUNK_TOKENS / length : 1;
    if (step > sequences)
        step = sequences;
    uint64_t buffers = buffer_floats(layer, step * length);
    int r = reserve(workspace, buffers + (uint64_t)(qp_low_rank_width(layer) * step * length), err);
    for (int64_t s = 0; r == 0 && s < sequences; s += step) {
        int64_t n = sequences - s < step ? sequences - s : step;
        struct chunk c = {layer, n, length, n * length, cos, sin, taps ? taps : &none, workspace->memory + buffers};
        float *rows = x + s * length * layer->arch->hidden;
        struct buffers b = buffers_in(workspace->memory, layer, c.rows);
        r = forward_attention(&c, &b, rows, err);
        if (r == 0)
            r = forward_mlp(&c, &b, rows, err);
    }
    return r;
}
