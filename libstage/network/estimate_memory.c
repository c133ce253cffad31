/* What parts of a forward hold. */
#include <stdlib.h>

#include "libstage/network/block.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/buffers.h"
#include "libstage/network/estimate.h"

/* Tokens that a forward takes at a time: whole windows (forward.c, text.c). */
#define PART_TOKENS 2048

int64_t qp_task_part(const struct qp_task *task)
{
    int64_t windows = task->length > 0 && task->length < PART_TOKENS ? PART_TOKENS / task->length : 1;
    return (windows < task->windows ? windows : task->windows) * task->length;
}

static double largest(double a, double b)
{
    return a > b ? a : b;
}

static bool multiplies_codes(const struct qp_task *t, int64_t layer, int linear, int quantized)
{
    const struct qp_linear *d = &qp_layer_type(t->arch, layer)->linears[linear];
    const struct qp_linear_scheme *scheme = d->site < quantized ? qp_task_scheme(t, layer, linear) : NULL;
    return scheme && qp_multiplies_int8(t->kernels, scheme, d->in);
}

/* Matrices in BF16 that are stored so are used where they lie; others are narrowed, by way of the largest of them. */
static void add_layer(const struct qp_task *task, int64_t layer, int quantized, bool bf16, struct qp_forward_bytes *out)
{
    const struct qp_layer_type *type = qp_layer_type(task->arch, layer);
    double bytes = 4 * (double)(qp_layer_parameters(type) - qp_layer_weights(type));
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        double weights = (double)d->out * (double)d->in;
        bool there = bf16 && quantized == 0 && task->arch->dtype == QP_BF16 && !qp_task_has(task, "rotation");
        if (there || multiplies_codes(task, layer, l, quantized))
            continue;
        bytes += (bf16 ? 2 : 4) * weights;
        out->loading = bf16 ? largest(out->loading, 4 * weights) : 0;
    }
    out->layer = largest(out->layer, bytes);
}

/* What attention packs of a part's keys and values at a time. */
static double packed_bytes(const struct qp_task *task, int64_t layer, bool bf16)
{
    const struct qp_attention_shape *a = &qp_layer_type(task->arch, layer)->attention;
    double bytes = 2 * (bf16 ? 2 : 4) * (double)qp_task_part(task) * (double)a->kv_heads * (double)a->head_dim;
    return bytes < QP_ATTENTION_PACKED ? bytes : QP_ATTENTION_PACKED;
}

/* Of the executor's plan (buffers.h) for a loaded layer, and what attention needs. */
static int estimate_workspace(const struct qp_task *task, int64_t layer, int quantized, bool bf16, double *bytes,
                              struct qp_error *err)
{
    static const uint8_t codes;
    struct qp_layer loaded = {.arch = task->arch,
                              .type = qp_layer_type(task->arch, layer),
                              .kernels = task->kernels,
                              .compute = bf16 ? QP_BF16 : QP_F32};
    int r = qp_layer_new_lists(loaded.type, &loaded, err);
    for (int l = 0; r == 0 && l < loaded.type->linear_count; l++)
        loaded.int8[l].codes = multiplies_codes(task, layer, l, quantized) ? &codes : NULL;
    if (r == 0)
        r = qp_layer_plan(&loaded, err);
    if (r == 0)
        *bytes = 4 * (double)loaded.plan->floats * (double)qp_task_part(task) + packed_bytes(task, layer, bf16);
    qp_layer_free(&loaded);
    return r;
}

int qp_estimate_forward_bytes(const struct qp_task *task, bool quantized, bool bf16, struct qp_forward_bytes *out,
                              struct qp_error *err)
{
    int r = 0;
    *out = (struct qp_forward_bytes){0};
    for (int64_t layer = 0; r == 0 && layer < task->arch->layers; layer++) {
        int sites = quantized ? qp_layer_type(task->arch, layer)->site_count : 0;
        double workspace = 0;
        if (layer > 0 && qp_layer_type(task->arch, layer) == qp_layer_type(task->arch, layer - 1) && !quantized)
            continue;
        r = estimate_workspace(task, layer, sites, bf16, &workspace, err);
        out->workspace = largest(out->workspace, workspace);
        add_layer(task, layer, sites, bf16, out);
    }
    return r;
}
