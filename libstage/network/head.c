/* The two ends of the network: embedding and head. */
#include "libstage/network/block.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/scratch.h"
#include "kernels/work.h"
#include "libstage/base/cleanup.h"
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

/* out[count, embed_width] = rows of the embedding; `first` is the number of ids[0] in the data, for messages. */
static int gather(const struct qp_block *block, const struct qp_tensor *t, int64_t first, int64_t count,
                  const int32_t *ids, float *out, struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    size_t row_bytes = t->bytes / (size_t)arch->vocab;
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= arch->vocab)
            return qp_fail(
                err, QP_ERR_INPUT,
                "token %lld of the data is id %d; the model's vocabulary ends at %lld: is the data tokenized "
                "for another model?",
                (long long)(first + i), (int)ids[i], (long long)arch->vocab - 1);
        const char *row = (const char *)t->data + (size_t)ids[i] * row_bytes;
        block->kernels->to_f32(t->dtype, arch->embed_width, row, out + i * arch->embed_width);
    }
    return 0;
}

/* w[elements] = the tensor in float32, of the exported version rounded as that will be. */
static void read_end(const struct qp_block *block, enum qp_version version, const struct qp_tensor *t, float *w)
{
    block->kernels->to_f32(t->dtype, t->elements, t->data, w);
    if (version == QP_QUANTIZED && rounds(block->arch, t))
        qp_round_to(block->kernels, block->arch->dtype, t->elements, w);
}

/* x[count, hidden] = projections of the embedding's rows, in parts. */
static int embed_projected(const struct qp_block *block, enum qp_version version, const struct qp_tensor *embedding,
                           int64_t count, const int32_t *ids, float *x, struct qp_error *err)
{
    enum { PART = 512 };
    const struct qp_arch *arch = block->arch;
    int64_t hidden = arch->hidden, width = arch->embed_width;
    const struct qp_tensor *t;
    int r = get_end(block, arch->project_in, 2, (int64_t[]){hidden, width}, &t, err);
    if (r < 0)
        return r;
    qp_auto_free float *w = qp_new_floats(t->elements + PART * width, "the projection of embeddings", err);
    if (!w)
        return QP_ERR_SPACE;
    float *rows = w + t->elements;
    read_end(block, version, t, w);
    for (int64_t at = 0; at < count; at += PART) {
        int64_t n = count - at < PART ? count - at : PART;
        r = gather(block, embedding, at, n, ids + at, rows, err);
        if (r < 0)
            return r;
        if (version == QP_QUANTIZED && rounds(arch, embedding))
            qp_round_to(block->kernels, arch->dtype, n * width, rows);
        block->kernels->gemm(&(struct qp_gemm){false, true, n, hidden, width, 1.0f, rows, width, w, width, 0.0f,
                                               x + at * hidden, hidden});
    }
    return 0;
}

static int add_positions(const struct qp_block *block, enum qp_version version, int64_t count, int64_t length, float *x,
                         struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    int64_t rows = arch->max_length + arch->position_offset, hidden = arch->hidden;
    const struct qp_tensor *t;
    int r = get_end(block, arch->positions, 2, (int64_t[]){rows, hidden}, &t, err);
    if (r < 0)
        return r;
    if (length > arch->max_length)
        return qp_fail(err, QP_ERR_INPUT,
                       "sequences of %lld tokens; this model has %lld positions: set `length` to that",
                       (long long)length, (long long)arch->max_length);
    qp_auto_free float *w = qp_new_floats(t->elements, "learned positions", err);
    if (!w)
        return QP_ERR_SPACE;
    read_end(block, version, t, w);
    for (int64_t i = 0; i < count; i++)
        block->kernels->add_scaled(hidden, 1, w + (arch->position_offset + i % length) * hidden, x + i * hidden);
    return 0;
}

int qp_embed(const struct qp_block *block, enum qp_version version, int64_t count, int64_t length, const int32_t *ids,
             float *x, struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    const struct qp_tensor *t;
    int r = get_end(block, arch->embedding, 2, (int64_t[]){arch->vocab, arch->embed_width}, &t, err);
    if (r < 0)
        return r;
    qp_work_add_read((double)t->bytes / (double)arch->vocab * (double)count);
    r = arch->project_in ? embed_projected(block, version, t, count, ids, x, err)
                         : gather(block, t, 0, count, ids, x, err);
    if (r < 0)
        return r;
    if (!arch->project_in && version == QP_QUANTIZED && rounds(arch, t))
        qp_round_to(block->kernels, arch->dtype, count * arch->hidden, x);
    float scale = embed_scale(block);
    if (scale != 1)
        block->kernels->multiply(count * arch->hidden, scale, x);
    return arch->positions ? add_positions(block, version, count, length, x, err) : 0;
}

/* The norm's gain twice, the second time as it will be exported; NULL: there is no norm. */
static int load_gain(const struct qp_tensor *gain, struct qp_head *head, struct qp_error *err)
{
    int64_t hidden = head->arch->hidden;
    head->gain = qp_new_floats(2 * hidden, "the head's norm", err);
    if (!head->gain)
        return QP_ERR_SPACE;
    head->rounded_gain = head->gain + hidden;
    memset(head->gain, 0, (size_t)hidden * sizeof(float));
    if (gain)
        head->kernels->to_f32(gain->dtype, gain->elements, gain->data, head->gain);
    memcpy(head->rounded_gain, head->gain, (size_t)hidden * sizeof(float));
    if (gain && rounds(head->arch, gain))
        qp_round_to(head->kernels, head->arch->dtype, hidden, head->rounded_gain);
    return 0;
}

/* The offset of gains, which is not stored, and the bias. */
static int finish_norm(const struct qp_block *block, struct qp_head *head, struct qp_error *err)
{
    const struct qp_norm *d = &block->arch->output_norm;
    char name[256];
    for (int64_t i = 0; d->offset != 0 && i < d->width; i++) {
        head->gain[i] += d->offset;
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
        return QP_ERR_SPACE;
    head->kernels->to_f32(t->dtype, d->width, t->data, head->bias);
    return 0;
}

static int load_projection(const struct qp_block *block, struct qp_head *head, struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    const struct qp_tensor *t;
    if (!arch->project_out)
        return 0;
    int r = get_end(block, arch->project_out, 2, (int64_t[]){arch->embed_width, arch->hidden}, &t, err);
    if (r < 0)
        return r;
    head->project = qp_new_floats(2 * t->elements, "the head's projection", err);
    if (!head->project)
        return QP_ERR_SPACE;
    read_end(block, QP_ORIGINAL, t, head->project);
    read_end(block, QP_QUANTIZED, t, head->project + t->elements);
    return 0;
}

int qp_head_load(const struct qp_block *block, struct qp_head *out, struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    const struct qp_tensor *gain = NULL, *weight;
    int r = arch->output_norm.width > 0 ? get_end(block, arch->final_norm, 1, &arch->hidden, &gain, err) : 0;
    if (r == 0)
        r = get_end(block, arch->tied ? arch->embedding : arch->head, 2, (int64_t[]){arch->vocab, arch->embed_width},
                    &weight, err);
    if (r < 0)
        return r;
    qp_work_add_read((double)((gain ? gain->bytes : 0) + weight->bytes));
    struct qp_head head = {.arch = arch,
                           .kernels = block->kernels,
                           .weight = weight,
                           .compute = arch->project_out ? QP_F32 : block->compute};
    r = load_gain(gain, &head, err);
    if (r == 0 && gain)
        r = finish_norm(block, &head, err);
    if (r == 0)
        r = load_projection(block, &head, err);
    if (r == 0)
        *out = head;
    else
        qp_head_free(&head);
    return r;
}

void qp_head_free(struct qp_head *head)
{
    free(head->gain);
    free(head->bias);
    free(head->project);
    *head = (struct qp_head){0};
}

static void normalize(const struct qp_head *head, const float *gain, int64_t rows, const float *x, void *y)
{
    const struct qp_norm *d = &head->arch->output_norm;
    const struct qp_kernels *k = head->kernels;
    if (d->width == 0)
        k->from_f32(head->compute, rows * head->arch->hidden, x, y);
    else if (d->kind == QP_NORM_LAYER && head->compute == QP_BF16)
        k->layer_norm_bf16(rows, d->width, x, gain, head->bias, d->eps, y);
    else if (d->kind == QP_NORM_LAYER)
        k->layer_norm(rows, d->width, x, gain, head->bias, d->eps, y);
    else if (head->compute == QP_BF16)
        k->rms_norm_bf16(rows, d->width, x, gain, d->eps, y);
    else
        k->rms_norm(rows, d->width, x, gain, d->eps, y);
}

/* Of normed[rows, hidden]; returns where the projections are, right after. */
static float *project(const struct qp_head *head, enum qp_version version, int64_t rows, float *normed)
{
    int64_t hidden = head->arch->hidden, width = head->arch->embed_width;
    const float *w = head->project + (version == QP_QUANTIZED ? width * hidden : 0);
    float *out = normed + rows * hidden;
    head->kernels->gemm(
        &(struct qp_gemm){false, true, rows, width, hidden, 1.0f, normed, hidden, w, hidden, 0.0f, out, width});
    return out;
}

/* So many that they stay in the thread's cache. */
int64_t qp_head_panel(const struct qp_arch *arch)
{
    enum { NUMBERS = 1 << 20, LEAST = 64, MOST = 1024 };
    int64_t rows = NUMBERS / arch->embed_width / LEAST * LEAST;
    return rows < LEAST ? LEAST : rows > MOST ? MOST : rows;
}

/* w[count, width] = rows of the matrix from `first` on, as the version has them. */
static void read_rows(const struct qp_head *head, enum qp_version version, int64_t first, int64_t count, float *w)
{
    const struct qp_tensor *t = head->weight;
    int64_t numbers = count * t->shape[1];
    const char *from = (const char *)t->data + (size_t)first * (t->bytes / (size_t)t->shape[0]);
    head->kernels->to_f32(t->dtype, numbers, from, w);
    if (version == QP_QUANTIZED && rounds(head->arch, t))
        qp_round_to(head->kernels, head->arch->dtype, numbers, w);
}

/* What a thread needs for a panel of `count` rows: those in float32, in BF16 those and their logits as well. */
struct panel {
    float *w, *logits;
    uint16_t *narrow;
};

static struct panel new_panel(const struct qp_head *head, int64_t count, int64_t rows)
{
    int64_t numbers = count * head->arch->embed_width;
    bool bf16 = head->compute == QP_BF16;
    float *w = qp_scratch((size_t)(numbers + (bf16 ? rows * count + (numbers + 1) / 2 : 0)), sizeof *w);
    return (struct panel){w, w ? w + numbers : NULL, w ? (uint16_t *)(w + numbers + rows * count) : NULL};
}

/* logits[rows, count] of rows [first, first + count) of the matrix, in a matrix [rows, vocab]. */
static void multiply_panel(const struct qp_head *head, const struct panel *p, int64_t first, int64_t count,
                           int64_t rows, const float *x, float *logits)
{
    int64_t width = head->arch->embed_width, vocab = head->arch->vocab;
    if (head->compute != QP_BF16) {
        head->kernels->gemm(&(struct qp_gemm){false, true, rows, count, width, 1.0f, x, width, p->w, width, 0.0f,
                                              logits + first, vocab});
        return;
    }
    head->kernels->from_f32(QP_BF16, count * width, p->w, p->narrow);
    head->kernels->linear_bf16(rows, count, width, (const uint16_t *)x, p->narrow, false, p->logits);
    for (int64_t r = 0; r < rows; r++)
        memcpy(logits + r * vocab + first, p->logits + r * count, (size_t)count * sizeof *logits);
}

/* In panels, for the matrix may be larger than all else; without memory the operation has failed (kernels/failure.h).
 */
static void multiply_panels(const struct qp_head *head, enum qp_version version, int64_t rows, const float *x,
                            float *logits)
{
    int64_t step = qp_head_panel(head->arch), vocab = head->arch->vocab;
#pragma omp parallel
    {
        struct panel panel = new_panel(head, step, rows);
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < vocab; first += step) {
            int64_t count = vocab - first < step ? vocab - first : step;
            if (!panel.w)
                continue;
            read_rows(head, version, first, count, panel.w);
            multiply_panel(head, &panel, first, count, rows, x, logits);
        }
        free(panel.w);
    }
}

/* A matrix in BF16, which is the same for all versions, can be used where it lies. */
static const uint16_t *stored_bf16(const struct qp_head *head)
{
    const struct qp_tensor *t = head->weight;
    bool there = head->compute == QP_BF16 && t->dtype == QP_BF16 && (uintptr_t)t->data % sizeof(uint16_t) == 0;
    return there ? t->data : NULL;
}

void qp_head_logits(const struct qp_head *head, enum qp_version version, int64_t rows, const float *x, float *scratch,
                    float *logits)
{
    const struct qp_arch *arch = head->arch;
    const uint16_t *stored = stored_bf16(head);
    normalize(head, version == QP_QUANTIZED ? head->rounded_gain : head->gain, rows, x, scratch);
    if (head->project)
        scratch = project(head, version, rows, scratch);
    if (stored)
        head->kernels->linear_bf16(rows, arch->vocab, arch->embed_width, (const uint16_t *)scratch, stored, false,
                                   logits);
    else
        multiply_panels(head, version, rows, scratch, logits);
    if (arch->logit_scale != 1)
        head->kernels->multiply(rows * arch->vocab, arch->logit_scale, logits);
    if (arch->logit_cap != 0)
        head->kernels->soft_cap(rows * arch->vocab, arch->logit_cap, logits);
}
