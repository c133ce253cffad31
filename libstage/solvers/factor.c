#include "libstage/solvers/factor.h"

#include "kernels/codec.h"

int64_t qp_factor_size(const struct qp_kernels *kernels, int64_t n)
{
    return kernels->split_products ? qp_tiles_size(n, n) : n * n;
}

int64_t qp_factor_rows_size(const struct qp_factor *f, int64_t rows)
{
    return f->tiles ? qp_tiles_size(rows, f->n) : 0;
}

void qp_factor_take(struct qp_factor *f, const struct qp_kernels *kernels, int64_t n, float *r)
{
    *f = (struct qp_factor){.kernels = kernels, .n = n, .across = qp_tiles_across(n), .r = r};
    kernels->mirror(n, r);
    if (!kernels->split_products)
        return;
    f->tiles = (uint16_t *)r;
    kernels->split_right(n, n, r);
}

/* Element [i, j] of R, which the tiles have as [j, i] too: there neighbours of a row are in a row. */
static float factor_element(const struct qp_factor *f, int64_t i, int64_t j)
{
    if (!f->tiles)
        return f->r[i * f->n + j];
    const uint16_t *parts = f->tiles + qp_right_at(f->across, j, i);
    return qp_bf16_to_f32(parts[0]) + qp_bf16_to_f32(parts[QP_TILE]);
}

void qp_factor_diagonal(const struct qp_factor *f, int64_t at, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < count; j++)
            out[i * count + j] = j < i ? 0.0f : factor_element(f, at + i, at + j);
}

void qp_factor_prepare(const struct qp_factor *f, int64_t rows, const struct qp_factor_rows *x, int64_t from,
                       int64_t to)
{
    if (f->tiles)
        f->kernels->split_left(&(struct qp_split_left){rows, from, to, x->x, f->n, f->across, x->tiles});
}

void qp_factor_add(const struct qp_factor *f, int64_t rows, const struct qp_factor_rows *x,
                   const struct qp_factor_span *span, float *y)
{
    int64_t from = span->from, to = span->to, into = span->into, end = span->end;
    if (f->tiles)
        f->kernels->linear_split(
            &(struct qp_linear_split){rows, from, to, into, end, f->across, x->tiles, f->tiles, y, f->n});
    else
        f->kernels->gemm(&(struct qp_gemm){false, true, rows, end - into, to - from, 1.0f, x->x + from, f->n,
                                           f->r + into * f->n + from, f->n, 1.0f, y + into, f->n});
}
