/* A decoder layer's weights in float32, or in BF16. */
#include "libstage/model/block.h"

#include <stdlib.h>

#include "kernels/work.h"
#include "libstage/base/memory.h"
#include "libstage/model/block_internal.h"

/* All matrices, biases and gains in one piece, each on a cache line of its own. */
static int64_t place(float **cursor, float **out, int64_t count)
{
    int64_t padded = (count + 15) / 16 * 16;
    if (cursor) {
        *out = *cursor;
        *cursor += padded;
    }
    return padded;
}

static int64_t matrix_size(const struct qp_arch *arch, int linear)
{
    const struct qp_linear_desc *d = &arch->family->linears[linear];
    return qp_arch_dim(arch, d->out) * qp_arch_dim(arch, d->in);
}

/* A BF16 matrix that can be used where it lies; NULL when there is none. */
static const uint16_t *stored_bf16(const struct qp_block *block, enum qp_version version, int linear)
{
    const struct qp_linear_desc *d = &block->arch->family->linears[linear];
    const struct qp_tensor *t = qp_block_find(block, d->module, "weight");
    if (version != QP_ORIGINAL || !t || t->dtype != QP_BF16 || (uintptr_t)t->data % sizeof(uint16_t) != 0)
        return NULL;
    bool fits = t->rank == 2 && t->shape[0] == qp_arch_dim(block->arch, d->out) &&
                t->shape[1] == qp_arch_dim(block->arch, d->in);
    return fits ? t->data : NULL;
}

static int find_int8(const struct qp_block *block, const struct qp_scheme *scheme, struct qp_layer *layer,
                     struct qp_error *err)
{
    char module[256];
    struct qp_quantized q;
    for (int l = 0; l < QP_LINEARS; l++) {
        qp_module_name(block->arch, block->layer, l, module, sizeof module);
        const struct qp_linear_scheme *linear = qp_scheme_for(scheme, module);
        int r = qp_block_quantized(block, l, linear, &q, err);
        if (r < 0)
            return r;
        if (r == 1 && q.codes && qp_multiplies_int8(block->kernels, linear, q.cols))
            layer->int8[l] = q;
    }
    return 0;
}

/* Room for a matrix, in BF16 in half as many floats, for codes none. */
static int64_t place_matrix(const struct qp_block *block, enum qp_version version, int linear, float **cursor,
                            struct qp_layer *layer)
{
    int64_t count = matrix_size(block->arch, linear), total;
    float *room = NULL;
    if (layer->int8[linear].codes)
        return 0;
    if (layer->compute != QP_BF16)
        return place(cursor, &layer->weight[linear], count);
    layer->bf16[linear] = stored_bf16(block, version, linear);
    if (layer->bf16[linear]) {
        qp_work_add_read(cursor ? 2.0 * (double)count : 0.0);
        return 0;
    }
    total = place(cursor, &room, (count + 1) / 2);
    layer->bf16[linear] = (uint16_t *)room;
    return total;
}

/* Sets the pointers from `memory`, unless that is NULL; returns how many floats there have to be. */
static int64_t lay_out(const struct qp_block *block, enum qp_version version, struct qp_layer *layer, float *memory)
{
    const struct qp_arch *arch = layer->arch;
    float **cursor = memory ? &memory : NULL;
    int64_t total = 0;
    for (int n = 0; n < QP_NORMS; n++)
        total += place(cursor, &layer->norm[n], arch->hidden);
    for (int l = 0; l < QP_LINEARS; l++) {
        total += place_matrix(block, version, l, cursor, layer);
        if (qp_arch_has_bias(arch, l))
            total += place(cursor, &layer->bias[l], qp_arch_dim(arch, arch->family->linears[l].out));
    }
    return total;
}

static int load_linear(const struct qp_block *block, enum qp_linear linear, bool transformed, struct qp_layer *layer,
                       struct qp_error *err)
{
    int r = qp_block_weight(block, linear, transformed, layer->weight[linear], err);
    if (r == 0 && layer->bias[linear])
        r = qp_block_bias(block, linear, transformed, layer->bias[linear], err);
    return r < 0 ? r : 0;
}

/* What a reader of the exported checkpoint computes with; 1 when the linear has codes. */
static int load_exported(const struct qp_block *block, enum qp_linear linear, const struct qp_scheme *scheme,
                         struct qp_layer *layer, struct qp_error *err)
{
    char module[256];
    struct qp_quantized q;
    const struct qp_arch *arch = block->arch;
    const struct qp_linear_desc *d = &arch->family->linears[linear];
    int64_t rows = qp_arch_dim(arch, d->out), cols = qp_arch_dim(arch, d->in);
    qp_module_name(arch, block->layer, linear, module, sizeof module);
    int coded = qp_block_quantized(block, linear, qp_scheme_for(scheme, module), &q, err);
    int r = coded < 0 ? coded : 0;
    if (coded == 0)
        r = load_linear(block, linear, true, layer, err);
    else if (coded == 1 && layer->bias[linear])
        r = qp_block_bias(block, linear, true, layer->bias[linear], err);
    if (r < 0)
        return r;
    if (coded)
        r = qp_dequantize(layer->kernels, &q, layer->weight[linear], err);
    else /* export writes the model's dtype */
        qp_round_to(layer->kernels, arch->dtype, rows * cols, layer->weight[linear]);
    if (layer->bias[linear])
        qp_round_to(layer->kernels, arch->dtype, rows, layer->bias[linear]);
    return r < 0 ? r : coded;
}

/* Codes stay where they are; 1, as they are there. */
static int load_int8(const struct qp_block *block, enum qp_linear linear, struct qp_layer *layer, struct qp_error *err)
{
    float *bias = layer->bias[linear];
    int r = bias ? qp_block_bias(block, linear, true, bias, err) : 0;
    if (r == 1)
        qp_round_to(layer->kernels, block->arch->dtype, layer->int8[linear].rows, bias);
    return r < 0 ? r : 1;
}

/* One linear of a version in float32; 1 when it has codes. */
static int load_version(const struct qp_block *block, enum qp_linear linear, enum qp_version version,
                        const struct qp_scheme *scheme, struct qp_layer *layer, struct qp_error *err)
{
    return version == QP_QUANTIZED ? load_exported(block, linear, scheme, layer, err)
                                   : load_linear(block, linear, version == QP_TRANSFORMED, layer, err);
}

/* The same in BF16, by way of wide, which holds any of the matrices. */
static int load_bf16(const struct qp_block *block, enum qp_linear linear, enum qp_version version,
                     const struct qp_scheme *scheme, float *wide, struct qp_layer *layer, struct qp_error *err)
{
    int r = 0;
    if (stored_bf16(block, version, linear)) {
        if (layer->bias[linear])
            r = qp_block_bias(block, linear, false, layer->bias[linear], err);
        return r < 0 ? r : 0;
    }
    layer->weight[linear] = wide;
    r = load_version(block, linear, version, scheme, layer, err);
    layer->weight[linear] = NULL;
    if (r >= 0)
        layer->kernels->from_f32(QP_BF16, matrix_size(block->arch, linear), wide, (uint16_t *)layer->bf16[linear]);
    return r;
}

static int load_all(const struct qp_block *block, enum qp_version version, const struct qp_scheme *scheme, float *wide,
                    struct qp_layer *layer, struct qp_error *err)
{
    unsigned quantized = 0;
    int r = 0;
    for (int n = 0; r == 0 && n < QP_NORMS; n++)
        r = qp_block_norm(block, n, version != QP_ORIGINAL, layer->norm[n], err);
    for (int l = 0; r >= 0 && l < QP_LINEARS; l++) {
        r = layer->int8[l].codes ? load_int8(block, l, layer, err)
            : wide               ? load_bf16(block, l, version, scheme, wide, layer, err)
                                 : load_version(block, l, version, scheme, layer, err);
        quantized |= (unsigned)(r == 1) << l;
    }
    if (r >= 0 && version == QP_QUANTIZED)
        r = qp_layer_activations(block, scheme, quantized, layer, err);
    if (r >= 0 && version == QP_QUANTIZED)
        r = qp_layer_load_low_rank(block, layer, err);
    return r < 0 ? r : 0;
}

static int64_t largest_matrix(const struct qp_arch *arch)
{
    int64_t largest = 0;
    for (int l = 0; l < QP_LINEARS; l++)
        largest = matrix_size(arch, l) > largest ? matrix_size(arch, l) : largest;
    return largest;
}

int qp_layer_load(const struct qp_block *block, enum qp_version version, const struct qp_scheme *scheme,
                  struct qp_layer *out, struct qp_error *err)
{
    if (!qp_block_is_layer(block))
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld is no decoder layer", (long long)block->unit->seq);
    struct qp_layer layer = {.arch = block->arch, .kernels = block->kernels, .compute = block->compute};
    int r = version == QP_QUANTIZED ? find_int8(block, scheme, &layer, err) : 0;
    if (r < 0)
        return r;
    size_t bytes = (size_t)lay_out(block, version, &layer, NULL) * sizeof(float);
    layer.memory = aligned_alloc(64, bytes);
    if (!layer.memory)
        return qp_fail_memory(err, bytes, "a decoder layer");
    lay_out(block, version, &layer, layer.memory);
    float *wide = block->compute == QP_BF16 ? qp_new_floats(largest_matrix(block->arch), "a matrix", err) : NULL;
    r = block->compute == QP_BF16 && !wide ? QP_ERR_ROOM : load_all(block, version, scheme, wide, &layer, err);
    free(wide);
    if (r < 0) {
        free(layer.memory);
        return r;
    }
    *out = layer;
    return 0;
}

void qp_layer_free(struct qp_layer *layer)
{
    free(layer->memory);
    qp_layer_free_low_rank(layer);
    *layer = (struct qp_layer){0};
}
