#include "libstage/network/checkpoint_gguf.h"

#include <omp.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"

/* The shape of what a part is stored in: linears of one name there are its rows in their order, and learned positions
 * have no rows before the first. *first: the row of a linear's part that is its first. */
static int stored_shape(const struct qp_arch *arch, const struct qp_part *part, int64_t shape[2], int64_t *first)
{
    int rank = qp_part_shape(arch, part, shape);
    *first = 0;
    if (part->kind == QP_PART_POSITIONS)
        shape[0] -= arch->position_offset;
    if (part->kind != QP_PART_LINEAR)
        return rank;
    const struct qp_layer_type *type = qp_layer_type(arch, part->layer);
    shape[0] = 0;
    for (int l = 0; l < type->linear_count; l++) {
        if (strcmp(type->linears[l].gguf, type->linears[part->index].gguf) != 0)
            continue;
        *first = l == part->index ? shape[0] : *first;
        shape[0] += type->linears[l].out;
    }
    return rank;
}

int qp_gguf_check_part(const struct qp_gguf *file, const struct qp_arch *arch, const struct qp_part *part,
                       struct qp_error *err)
{
    char name[128], found[64], expected[64];
    int64_t shape[2], first;
    int rank = stored_shape(arch, part, shape, &first);
    qp_part_gguf_name(arch, part, name, sizeof name);
    const struct qp_gguf_tensor *t = qp_gguf_find(file, name);
    qp_shape_text(rank, shape, expected, sizeof expected);
    if (!t)
        return qp_fail(err, QP_ERR_INPUT, "%s: %s is missing, expected %s", file->path, name, expected);
    if (t->rank != rank || t->shape[0] != shape[0] || (rank == 2 && t->shape[1] != shape[1]))
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: found shape %s, expected %s from the metadata", file->path, name,
                       qp_shape_text(t->rank, t->shape, found, sizeof found), expected);
    return 0;
}

/* Where llama.cpp's converter put row `row` of a rotary linear: it interleaves the two halves of each head
 * (convert_hf_to_gguf.py, LlamaModel.permute). */
static int64_t permuted_row(int64_t row, int64_t head_dim)
{
    int64_t head = row / head_dim, in_head = row % head_dim, half = head_dim / 2;
    return head * head_dim + 2 * (in_head % half) + in_head / half;
}

/* Which of the stored rows become a tensor, and how. */
struct conversion {
    int64_t first;      /* the first of them; below 0: so many rows of zeros come before it */
    int64_t rotary_dim; /* of heads that are interleaved; 0: rows are as they are */
    float offset;       /* taken from gains */
};

static int convert_matrix(const struct qp_gguf *file, const struct qp_gguf_tensor *from, const struct conversion *how,
                          struct qp_tensor *to, struct qp_error *err)
{
    const struct qp_kernels *kernels = qp_kernels_open("cpu");
    size_t row_bytes = to->bytes / (size_t)to->shape[0];
    int64_t cols = to->shape[1];
    qp_auto_free float *rows = qp_new_floats(omp_get_max_threads() * cols, to->name, err); /* one a thread */
    if (!rows)
        return QP_ERR_SPACE;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < to->shape[0]; r++) {
        float *row = rows + omp_get_thread_num() * cols;
        int64_t stored = how->first + (how->rotary_dim ? permuted_row(r, how->rotary_dim) : r);
        if (stored < 0)
            memset(row, 0, (size_t)cols * sizeof *row);
        else
            qp_gguf_rows(file, from, stored, 1, row);
        kernels->from_f32(to->dtype, cols, row, (char *)to->data + (size_t)r * row_bytes);
    }
    return 0;
}

static int convert_vector(const struct qp_gguf *file, const struct qp_gguf_tensor *from, const struct conversion *how,
                          struct qp_tensor *to, struct qp_error *err)
{
    qp_auto_free float *stored = qp_new_floats(from->elements + to->elements, to->name, err);
    if (!stored)
        return QP_ERR_SPACE;
    float *ordered = stored + from->elements;
    qp_gguf_rows(file, from, 0, 1, stored);
    for (int64_t i = 0; i < to->elements; i++)
        ordered[i] = stored[how->first + (how->rotary_dim ? permuted_row(i, how->rotary_dim) : i)] - how->offset;
    qp_kernels_open("cpu")->from_f32(to->dtype, to->elements, ordered, to->data);
    return 0;
}

/* llama.cpp stores gains with their norm's offset. */
static float offset_of(const struct qp_arch *arch, const struct qp_part *part)
{
    if (part->bias)
        return 0;
    if (part->kind == QP_PART_FINAL_NORM)
        return arch->output_norm.offset;
    return part->kind == QP_PART_NORM ? qp_layer_type(arch, part->layer)->norms[part->index].offset : 0;
}

int qp_gguf_part(const struct qp_gguf *file, const struct qp_arch *arch, const struct qp_part *part,
                 const struct qp_allocator *allocator, struct qp_tensor **out, struct qp_error *err)
{
    char name[256], gguf_name[128];
    int64_t shape[2];
    int rank = qp_part_shape(arch, part, shape);
    const struct qp_gguf_tensor *from = qp_gguf_find(file, qp_part_gguf_name(arch, part, gguf_name, sizeof gguf_name));
    qp_auto_tensor struct qp_tensor *to = NULL;
    qp_part_name(arch, part, name, sizeof name);
    int r = qp_allocate(allocator, name, arch->dtype, rank, shape, &to, err);
    if (r < 0)
        return r;
    struct conversion how = {.offset = offset_of(arch, part)};
    int64_t stored[2];
    stored_shape(arch, part, stored, &how.first);
    if (part->kind == QP_PART_POSITIONS)
        how.first = -arch->position_offset;
    if (part->kind == QP_PART_LINEAR)
        how.rotary_dim = qp_layer_type(arch, part->layer)->linears[part->index].permuted;
    r = rank == 2 ? convert_matrix(file, from, &how, to, err) : convert_vector(file, from, &how, to, err);
    if (r < 0)
        return r;
    *out = to;
    to = NULL;
    return 0;
}
