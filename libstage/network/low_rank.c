/* Low-rank corrections of linears: in block units, and loaded beside a layer's weights. */
#include <stdlib.h>

#include "libstage/base/memory.h"
#include "libstage/network/block_internal.h"

int qp_block_low_rank(const struct qp_block *block, int linear, const struct qp_tensor **a, const struct qp_tensor **b,
                      struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    const struct qp_tensor *found = qp_block_find(block, d->module, "low_rank_a");
    int64_t rank = found && found->rank == 2 ? found->shape[0] : 0;
    if (!found)
        return 0;
    int r = qp_block_get(block, d->module, "low_rank_a", QP_DTYPE_NONE, (const int64_t[2]){rank, d->in}, a, err);
    if (r == 0)
        r = qp_block_get(block, d->module, "low_rank_b", QP_DTYPE_NONE, (const int64_t[2]){d->out, rank}, b, err);
    return r < 0 ? r : 1;
}

static int put_factor(struct qp_block *block, int linear, const char *what, const int64_t shape[2], const float *values,
                      const struct qp_allocator *allocator, struct qp_error *err)
{
    char name[256];
    struct qp_tensor *t;
    qp_block_name(block, block->type->linears[linear].module, what, name, sizeof name);
    int r = qp_allocate(allocator, name, block->arch->dtype, 2, shape, &t, err);
    if (r < 0)
        return r;
    block->kernels->from_f32(t->dtype, t->elements, values, t->data);
    return qp_unit_put(block->unit, t, err);
}

int qp_block_set_low_rank(struct qp_block *block, int linear, int64_t rank, const float *a, const float *b,
                          const struct qp_allocator *allocator, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out, cols = d->in;
    int r = put_factor(block, linear, "low_rank_a", (int64_t[]){rank, cols}, a, allocator, err);
    return r < 0 ? r : put_factor(block, linear, "low_rank_b", (int64_t[]){rows, rank}, b, allocator, err);
}

static int widen(const struct qp_block *block, const struct qp_tensor *t, float **out, struct qp_error *err)
{
    *out = qp_new_floats(t->elements, "a low-rank factor", err);
    if (!*out)
        return QP_ERR_SPACE;
    block->kernels->to_f32(t->dtype, t->elements, t->data, *out);
    return 0;
}

static int load(const struct qp_block *block, int linear, struct qp_low_rank_factors *out, struct qp_error *err)
{
    const struct qp_tensor *a, *b;
    *out = (struct qp_low_rank_factors){0};
    int r = qp_block_low_rank(block, linear, &a, &b, err);
    if (r <= 0)
        return r;
    out->rank = a->shape[0];
    r = widen(block, a, &out->a, err);
    return r < 0 ? r : widen(block, b, &out->b, err);
}

static void unload(struct qp_low_rank_factors *f)
{
    free(f->a);
    free(f->b);
    *f = (struct qp_low_rank_factors){0};
}

int qp_block_add_low_rank(const struct qp_block *block, int linear, float *w, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    int64_t rows = d->out, cols = d->in;
    struct qp_low_rank_factors f;
    int r = load(block, linear, &f, err);
    if (r == 0 && f.rank > 0)
        block->kernels->gemm(
            &(struct qp_gemm){false, false, rows, cols, f.rank, 1.0f, f.b, f.rank, f.a, cols, 1.0f, w, cols});
    unload(&f);
    return r;
}

int qp_layer_load_low_rank(const struct qp_block *block, struct qp_layer *layer, struct qp_error *err)
{
    int r = 0;
    for (int l = 0; l < layer->type->linear_count && r >= 0; l++)
        r = load(block, l, &layer->low_rank[l], err);
    if (r < 0)
        qp_layer_free_low_rank(layer);
    return r < 0 ? r : 0;
}

void qp_layer_free_low_rank(struct qp_layer *layer)
{
    for (int l = 0; l < layer->type->linear_count; l++)
        unload(&layer->low_rank[l]);
}

static bool reads(const struct qp_layer *layer, int linear, int site)
{
    return layer->type->linears[linear].site == site && layer->low_rank[linear].rank > 0;
}

int64_t qp_low_rank_width(const struct qp_layer *layer)
{
    int64_t widest = 0;
    for (int site = 0; site < layer->type->site_count; site++) {
        int64_t width = 0;
        for (int l = 0; l < layer->type->linear_count; l++)
            width += reads(layer, l, site) ? layer->low_rank[l].rank : 0;
        widest = width > widest ? width : widest;
    }
    return widest;
}

bool qp_low_rank_reads(const struct qp_layer *layer, int site)
{
    for (int l = 0; l < layer->type->linear_count; l++)
        if (reads(layer, l, site))
            return true;
    return false;
}

void qp_low_rank_enter(const struct qp_layer *layer, int site, int64_t rows, int64_t in, const float *x, float *low)
{
    for (int l = 0; l < layer->type->linear_count; l++)
        if (reads(layer, l, site)) {
            const struct qp_low_rank_factors *f = &layer->low_rank[l];
            layer->kernels->gemm(
                &(struct qp_gemm){false, true, rows, f->rank, in, 1.0f, x, in, f->a, in, 0.0f, low, f->rank});
            low += rows * f->rank;
        }
}

void qp_low_rank_leave(const struct qp_layer *layer, int linear, int64_t rows, const float *low, float *y)
{
    const struct qp_low_rank_factors *f = &layer->low_rank[linear];
    const struct qp_linear *d = &layer->type->linears[linear];
    int64_t out = d->out;
    if (f->rank == 0)
        return;
    for (int l = 0; l < (int)linear; l++)
        low += reads(layer, l, d->site) ? rows * layer->low_rank[l].rank : 0;
    layer->kernels->gemm(
        &(struct qp_gemm){false, true, rows, out, f->rank, 1.0f, low, f->rank, f->b, f->rank, 1.0f, y, out});
}
