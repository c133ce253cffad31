/* A decoder layer's weights in float32, or in BF16. */
#include "libstage/network/block.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/work.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/buffers.h"

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

static int64_t matrix_size(const struct qp_layer_type *type, int linear)
{
    return type->linears[linear].out * type->linears[linear].in;
}

/* A BF16 matrix that can be used where it lies; NULL when there is none. */
static const uint16_t *stored_bf16(const struct qp_block *block, enum qp_version version, int linear)
{
    const struct qp_linear *d = &block->type->linears[linear];
    const struct qp_tensor *t = qp_block_find(block, d->module, "weight");
    if (version != QP_ORIGINAL || !t || t->dtype != QP_BF16 || (uintptr_t)t->data % sizeof(uint16_t) != 0)
        return NULL;
    bool fits = t->rank == 2 && t->shape[0] == d->out && t->shape[1] == d->in;
    return fits ? t->data : NULL;
}

static int find_int8(const struct qp_block *block, const struct qp_scheme *scheme, struct qp_layer *layer,
                     struct qp_error *err)
{
    char module[256];
    struct qp_quantized q;
    for (int l = 0; l < block->type->linear_count; l++) {
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

/* Space for a matrix, in BF16 in half as many floats, for codes none. */
static int64_t place_matrix(const struct qp_block *block, enum qp_version version, int linear, float **cursor,
                            struct qp_layer *layer)
{
    int64_t count = matrix_size(block->type, linear), total;
    float *space = NULL;
    if (layer->int8[linear].codes)
        return 0;
    if (layer->compute != QP_BF16)
        return place(cursor, &layer->weight[linear], count);
    layer->bf16[linear] = stored_bf16(block, version, linear);
    if (layer->bf16[linear]) {
        qp_work_add_read(cursor ? 2.0 * (double)count : 0.0);
        return 0;
    }
    total = place(cursor, &space, (count + 1) / 2);
    layer->bf16[linear] = (uint16_t *)space;
    return total;
}

/* Sets the pointers from `memory`, unless that is NULL; returns how many floats there have to be. */
static int64_t lay_out(const struct qp_block *block, enum qp_version version, struct qp_layer *layer, float *memory)
{
    const struct qp_layer_type *type = layer->type;
    float **cursor = memory ? &memory : NULL;
    int64_t total = 0;
    for (int n = 0; n < type->norm_count; n++) {
        total += place(cursor, &layer->norm[n], type->norms[n].width);
        if (type->norms[n].bias)
            total += place(cursor, &layer->norm_bias[n], type->norms[n].width);
    }
    for (int l = 0; l < type->linear_count; l++) {
        total += place_matrix(block, version, l, cursor, layer);
        if (type->linears[l].bias)
            total += place(cursor, &layer->bias[l], type->linears[l].out);
    }
    return total;
}

static int load_linear(const struct qp_block *block, int linear, bool transformed, struct qp_layer *layer,
                       struct qp_error *err)
{
    int r = qp_block_weight(block, linear, transformed, layer->weight[linear], err);
    if (r == 0 && layer->bias[linear])
        r = qp_block_bias(block, linear, transformed, layer->bias[linear], err);
    return r < 0 ? r : 0;
}

/* What a reader of the exported checkpoint computes with; 1 when the linear has codes. */
static int load_exported(const struct qp_block *block, int linear, const struct qp_scheme *scheme,
                         struct qp_layer *layer, struct qp_error *err)
{
    char module[256];
    struct qp_quantized q;
    const struct qp_arch *arch = block->arch;
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out, cols = d->in;
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
static int load_int8(const struct qp_block *block, int linear, struct qp_layer *layer, struct qp_error *err)
{
    float *bias = layer->bias[linear];
    int r = bias ? qp_block_bias(block, linear, true, bias, err) : 0;
    if (r == 1)
        qp_round_to(layer->kernels, block->arch->dtype, layer->int8[linear].rows, bias);
    return r < 0 ? r : 1;
}

/* One linear of a version in float32; 1 when it has codes. */
static int load_version(const struct qp_block *block, int linear, enum qp_version version,
                        const struct qp_scheme *scheme, struct qp_layer *layer, struct qp_error *err)
{
    return version == QP_QUANTIZED ? load_exported(block, linear, scheme, layer, err)
                                   : load_linear(block, linear, version == QP_TRANSFORMED, layer, err);
}

/* The same in BF16, by way of wide, which holds any of the matrices. */
static int load_bf16(const struct qp_block *block, int linear, enum qp_version version, const struct qp_scheme *scheme,
                     float *wide, struct qp_layer *layer, struct qp_error *err)
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
        layer->kernels->from_f32(QP_BF16, matrix_size(block->type, linear), wide, (uint16_t *)layer->bf16[linear]);
    return r;
}

static int load_norm(const struct qp_block *block, int norm, bool transformed, struct qp_layer *layer,
                     struct qp_error *err)
{
    int r = qp_block_norm(block, norm, transformed, layer->norm[norm], err);
    if (r == 0 && layer->norm_bias[norm])
        r = qp_block_norm_bias(block, norm, transformed, layer->norm_bias[norm], err);
    return r < 0 ? r : 0;
}

static double softplus(double x)
{
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

/* Huang and Schlag 2024: both alphas are softplus of what is learned, the one of negative numbers is added to beta. */
static int load_xielu(const struct qp_block *block, bool exported, struct qp_layer *layer, struct qp_error *err)
{
    float v[4];
    if (layer->type->act != QP_ACT_XIELU)
        return 0;
    for (int p = 0; p < 4; p++) {
        char name[256];
        qp_layer_name(block->arch, block->layer, layer->type->parameters[p].name, name, sizeof name);
        const struct qp_tensor *t = qp_unit_find(block->unit, name);
        if (!t || t->elements != 1 || !qp_dtype_is_plain_float(t->dtype))
            return qp_fail(err, QP_ERR_INPUT, "block unit %lld: %s is missing, or not one number",
                           (long long)block->unit->seq, name);
        layer->kernels->to_f32(t->dtype, 1, t->data, &v[p]);
    }
    if (exported)
        qp_round_to(layer->kernels, block->arch->dtype, 4, v);
    layer->xielu =
        (struct qp_xielu){(float)softplus((double)v[0]), (float)((double)v[2] + softplus((double)v[1])), v[2], v[3]};
    return 0;
}

static int load_all(const struct qp_block *block, enum qp_version version, const struct qp_scheme *scheme, float *wide,
                    struct qp_layer *layer, struct qp_error *err)
{
    const struct qp_layer_type *type = layer->type;
    qp_auto_free bool *quantized = calloc((size_t)type->linear_count, sizeof *quantized);
    int r = quantized ? 0 : qp_fail_memory(err, (size_t)type->linear_count, "a decoder layer");
    if (r == 0)
        r = load_xielu(block, version == QP_QUANTIZED, layer, err);
    for (int n = 0; r == 0 && n < type->norm_count; n++)
        r = load_norm(block, n, version != QP_ORIGINAL, layer, err);
    for (int l = 0; r >= 0 && l < type->linear_count; l++) {
        r = layer->int8[l].codes ? load_int8(block, l, layer, err)
            : wide               ? load_bf16(block, l, version, scheme, wide, layer, err)
                                 : load_version(block, l, version, scheme, layer, err);
        quantized[l] = r == 1;
    }
    if (r >= 0 && version == QP_QUANTIZED)
        r = qp_layer_activations(block, scheme, quantized, layer, err);
    if (r >= 0 && version == QP_QUANTIZED)
        r = qp_layer_load_low_rank(block, layer, err);
    return r < 0 ? r : 0;
}

static int64_t largest_matrix(const struct qp_layer_type *type)
{
    int64_t largest = 0;
    for (int l = 0; l < type->linear_count; l++)
        largest = matrix_size(type, l) > largest ? matrix_size(type, l) : largest;
    return largest;
}

/* One piece for all lists; those with the strictest alignment come first. */
int qp_layer_new_lists(const struct qp_layer_type *type, struct qp_layer *layer, struct qp_error *err)
{
    size_t linears = (size_t)type->linear_count, sites = (size_t)type->site_count, norms = (size_t)type->norm_count;
    size_t linear_size = sizeof *layer->int8 + sizeof *layer->low_rank + 3 * sizeof(void *);
    size_t bytes =
        linears * linear_size + sites * (sizeof *layer->activations + sizeof(double)) + 2 * norms * sizeof(void *);
    char *at = layer->lists = calloc(1, bytes);
    if (!at)
        return qp_fail_memory(err, bytes, "the lists of a decoder layer");
    layer->int8 = (struct qp_quantized *)at;
    layer->low_rank = (struct qp_low_rank_factors *)(layer->int8 + linears);
    layer->activations = (struct qp_quant_spec *)(layer->low_rank + linears);
    layer->weight = (float **)(layer->activations + sites);
    layer->bias = layer->weight + linears;
    layer->norm = layer->bias + linears;
    layer->norm_bias = layer->norm + norms;
    layer->bf16 = (const uint16_t **)(layer->norm_bias + norms);
    layer->input_scale = (float *)(layer->bf16 + linears);
    return 0;
}

static int load_weights(const struct qp_block *block, enum qp_version version, const struct qp_scheme *scheme,
                        struct qp_layer *layer, struct qp_error *err)
{
    size_t bytes = (size_t)lay_out(block, version, layer, NULL) * sizeof(float);
    layer->memory = aligned_alloc(64, bytes);
    if (!layer->memory)
        return qp_fail_memory(err, bytes, "a decoder layer");
    lay_out(block, version, layer, layer->memory);
    bool narrow = layer->compute == QP_BF16;
    qp_auto_free float *wide = narrow ? qp_new_floats(largest_matrix(block->type), "a matrix", err) : NULL;
    return narrow && !wide ? QP_ERR_SPACE : load_all(block, version, scheme, wide, layer, err);
}

int qp_layer_load(const struct qp_block *block, enum qp_version version, const struct qp_scheme *scheme,
                  struct qp_layer *out, struct qp_error *err)
{
    if (!qp_block_is_layer(block))
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld is no decoder layer", (long long)block->unit->seq);
    struct qp_layer layer = {
        .arch = block->arch, .type = block->type, .kernels = block->kernels, .compute = block->compute};
    int r = qp_layer_new_lists(block->type, &layer, err);
    if (r == 0 && version == QP_QUANTIZED)
        r = find_int8(block, scheme, &layer, err);
    if (r == 0)
        r = qp_layer_plan(&layer, err);
    if (r == 0)
        r = load_weights(block, version, scheme, &layer, err);
    if (r < 0) {
        qp_layer_free(&layer);
        return r;
    }
    *out = layer;
    return 0;
}

void qp_layer_free(struct qp_layer *layer)
{
    if (layer->lists)
        qp_layer_free_low_rank(layer);
    free(layer->memory);
    free(layer->lists);
    free(layer->plan);
    *layer = (struct qp_layer){0};
}
