/* The two ends of the network: embedding and head. */
#include "libstage/network/block.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/work.h"
#include "libstage/base/memory.h"
#include "libstage/network/block_internal.h"

/* The tensor MODULE.weight of an end's unit; QP_ERR_INPUT when it is missing or of another shape or kind. */
static int get_end(const struct qp_block *block, const char *module, int rank, const int64_t *shape,
                   const struct qp_tensor **out, struct qp_error *err)
{
    char name[256], found[128], expected[64];
    snprintf(name, sizeof name, "%s.weight", module);
    const struct qp_tensor *t = qp_unit_find(block->unit, name);
    if (!t)
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld has no tensor %s", (long long)block->unit->seq, name);
    if (t->rank != rank || t->shape[0] != shape[0] || (rank == 2 && t->shape[1] != shape[1]) ||
        !qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "%s: found %s %s, expected %s in F32, F16, BF16 or F64", name,
                       qp_dtype_name(t->dtype), qp_shape_text(t->rank, t->shape, found, sizeof found),
                       qp_shape_text(rank, shape, expected, sizeof expected));
    *out = t;
    return 0;
}

/* Whether export, which writes the model's dtype, changes a tensor. */
static bool rounds(const struct qp_arch *arch, const struct qp_tensor *t)
{
    return t->dtype != arch->dtype && arch->dtype != QP_F32;
}

/* Gemma's root of hidden is of the weights' dtype. */
static float embed_scale(const struct qp_block *block)
{
    float root = sqrtf((float)block->arch->hidden);
    if (!block->arch->embed_sqrt)
        return block->arch->embed_scale;
    qp_round_to(block->kernels, block->arch->dtype, 1, &root);
    return root;
}

int qp_embed(const struct qp_block *block, enum qp_version version, int64_t count, const int32_t *ids, float *x,
             struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    const struct qp_tensor *t;
    int r = get_end(block, arch->embedding, 2, (int64_t[]){arch->vocab, arch->hidden}, &t, err);
    if (r < 0)
        return r;
    size_t row_bytes = t->bytes / (size_t)arch->vocab;
    qp_work_add_read((double)row_bytes * (double)count);
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= arch->vocab)
            return qp_fail(
                err, QP_ERR_INPUT,
                "token %lld of the data is id %d; the model's vocabulary ends at %lld: is the data tokenized "
                "for another model?",
                (long long)i, (int)ids[i], (long long)arch->vocab - 1);
        const char *row = (const char *)t->data + (size_t)ids[i] * row_bytes;
        block->kernels->to_f32(t->dtype, arch->hidden, row, x + i * arch->hidden);
    }
    if (version == QP_QUANTIZED && rounds(arch, t))
        qp_round_to(block->kernels, arch->dtype, count * arch->hidden, x);
    float scale = embed_scale(block);
    if (scale != 1)
        block->kernels->multiply(count * arch->hidden, scale, x);
    return 0;
}

static int load_f32(const struct qp_tensor *gain, const struct qp_tensor *weight, struct qp_head *head,
                    struct qp_error *err)
{
    const struct qp_arch *arch = head->arch;
    bool twice = rounds(arch, gain) || rounds(arch, weight);
    int64_t count = gain->elements + weight->elements;
    head->gain = qp_new_floats((twice ? 2 : 1) * count, "the head in float32", err);
    if (!head->gain)
        return QP_ERR_ROOM;
    head->weight = head->gain + arch->hidden;
    head->rounded_gain = twice ? head->gain + count : head->gain;
    head->rounded_weight = head->rounded_gain + arch->hidden;
    head->kernels->to_f32(gain->dtype, gain->elements, gain->data, head->gain);
    head->kernels->to_f32(weight->dtype, weight->elements, weight->data, head->weight);
    if (twice) {
        memcpy(head->rounded_gain, head->gain, (size_t)count * sizeof(float));
        qp_round_to(head->kernels, arch->dtype, count, head->rounded_gain); /* the matrix stands behind it */
    }
    return 0;
}

/* A row at a time. */
static void narrow(const struct qp_kernels *kernels, const struct qp_tensor *weight, float *row, uint16_t *out)
{
    int64_t n = weight->shape[1];
    size_t bytes = weight->bytes / (size_t)weight->shape[0];
    for (int64_t i = 0; i < weight->shape[0]; i++) {
        kernels->to_f32(weight->dtype, n, (const char *)weight->data + (size_t)i * bytes, row);
        kernels->from_f32(QP_BF16, n, row, out + i * n);
    }
}

/* Two gains, then, unless the matrix can be used where it lies, a row for its conversion and the matrix. */
static int load_bf16(const struct qp_tensor *gain, const struct qp_tensor *weight, struct qp_head *head,
                     struct qp_error *err)
{
    bool there = weight->dtype == QP_BF16 && (uintptr_t)weight->data % sizeof(uint16_t) == 0;
    int64_t hidden = head->arch->hidden;
    head->gain = qp_new_floats(3 * hidden + (there ? 0 : (weight->elements + 1) / 2), "the head in BF16", err);
    if (!head->gain)
        return QP_ERR_ROOM;
    head->rounded_gain = head->gain + hidden;
    head->kernels->to_f32(gain->dtype, gain->elements, gain->data, head->gain);
    memcpy(head->rounded_gain, head->gain, (size_t)hidden * sizeof(float));
    qp_round_to(head->kernels, head->arch->dtype, hidden, head->rounded_gain);
    float *row = head->rounded_gain + hidden;
    if (!there)
        narrow(head->kernels, weight, row, (uint16_t *)(row + hidden));
    head->bf16 = there ? weight->data : (uint16_t *)(row + hidden);
    return 0;
}

/* The offset of gains, which is not stored, and the bias. */
static int finish_norm(const struct qp_block *block, struct qp_head *head, struct qp_error *err)
{
    const struct qp_norm *d = &block->arch->output_norm;
    char name[256];
    for (int64_t i = 0; d->offset != 0 && i < d->width; i++) {
        head->gain[i] += d->offset;
        if (head->rounded_gain != head->gain)
            head->rounded_gain[i] += d->offset;
    }
    if (!d->bias)
        return 0;
    snprintf(name, sizeof name, "%s.bias", d->module);
    const struct qp_tensor *t = qp_unit_find(block->unit, name);
    if (!t || t->rank != 1 || t->shape[0] != d->width || !qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld: %s is missing, or not of the model's size and kind",
                       (long long)block->unit->seq, name);
    head->bias = qp_new_floats(d->width, "the head's bias", err);
    if (!head->bias)
        return QP_ERR_ROOM;
    head->kernels->to_f32(t->dtype, d->width, t->data, head->bias);
    return 0;
}

int qp_head_load(const struct qp_block *block, struct qp_head *out, struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    const struct qp_tensor *gain, *weight;
    int r = get_end(block, arch->final_norm, 1, &arch->hidden, &gain, err);
    if (r == 0)
        r = get_end(block, arch->tied ? arch->embedding : arch->head, 2, (int64_t[]){arch->vocab, arch->hidden},
                    &weight, err);
    if (r < 0)
        return r;
    qp_work_add_read((double)(gain->bytes + weight->bytes));
    struct qp_head head = {.arch = arch, .kernels = block->kernels};
    r = block->compute == QP_BF16 ? load_bf16(gain, weight, &head, err) : load_f32(gain, weight, &head, err);
    if (r == 0)
        r = finish_norm(block, &head, err);
    if (r == 0)
        *out = head;
    else
        qp_head_free(&head);
    return r;
}

void qp_head_free(struct qp_head *head)
{
    free(head->gain); /* the matrix stands behind it */
    free(head->bias);
    *head = (struct qp_head){0};
}

static void normalize(const struct qp_head *head, const float *gain, int64_t rows, const float *x, void *y)
{
    const struct qp_norm *d = &head->arch->output_norm;
    const struct qp_kernels *k = head->kernels;
    if (d->kind == QP_NORM_LAYER && head->bf16)
        k->layer_norm_bf16(rows, d->width, x, gain, head->bias, d->eps, y);
    else if (d->kind == QP_NORM_LAYER)
        k->layer_norm(rows, d->width, x, gain, head->bias, d->eps, y);
    else if (head->bf16)
        k->rms_norm_bf16(rows, d->width, x, gain, d->eps, y);
    else
        k->rms_norm(rows, d->width, x, gain, d->eps, y);
}

void qp_head_logits(const struct qp_head *head, enum qp_version version, int64_t rows, const float *x, float *scratch,
                    float *logits)
{
    const struct qp_arch *arch = head->arch;
    const float *weight = version == QP_QUANTIZED ? head->rounded_weight : head->weight;
    normalize(head, version == QP_QUANTIZED ? head->rounded_gain : head->gain, rows, x, scratch);
    if (head->bf16)
        head->kernels->linear_bf16(rows, arch->vocab, arch->hidden, (const uint16_t *)scratch, head->bf16, false,
                                   logits);
    else
        head->kernels->gemm(false, true, rows, arch->vocab, arch->hidden, 1.0f, scratch, arch->hidden, weight,
                            arch->hidden, 0.0f, logits, arch->vocab);
    if (arch->logit_scale != 1)
        head->kernels->multiply(rows * arch->vocab, arch->logit_scale, logits);
    if (arch->logit_cap != 0)
        head->kernels->soft_cap(rows * arch->vocab, arch->logit_cap, logits);
}
