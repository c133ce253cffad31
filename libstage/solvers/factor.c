#include "libstage/solvers/factor.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/scratch.h"

/* A row of floats becomes its high parts and then its low ones, in the same bytes. */
static void split_rows(struct qp_factor *f)
{
    int64_t n = f->n;
#pragma omp parallel
    {
        float *row = qp_scratch((size_t)n, sizeof *row);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++)
            if (row) {
                memcpy(row, f->r + i * n, (size_t)n * sizeof *row);
                f->kernels->split(n, row, f->high + i * f->stride, f->low + i * f->stride);
            }
        free(row);
    }
}

void qp_factor_take(struct qp_factor *f, const struct qp_kernels *kernels, int64_t n, float *r)
{
    *f = (struct qp_factor){.kernels = kernels, .n = n, .stride = n, .r = r};
    kernels->mirror(n, r);
    if (!kernels->split_products)
        return;
    f->stride = 2 * n;
    f->high = (uint16_t *)r;
    f->low = f->high + n;
    split_rows(f);
}

void qp_factor_diagonal(const struct qp_factor *f, int64_t at, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++) {
        int64_t from = (at + i) * f->stride + at;
        float *row = out + i * count;
        for (int64_t j = 0; j < i; j++)
            row[j] = 0.0f;
        for (int64_t j = i; j < count; j++)
            row[j] = f->high ? qp_bf16_to_f32(f->high[from + j]) + qp_bf16_to_f32(f->low[from + j]) : f->r[from + j];
    }
}

void qp_factor_prepare(const struct qp_factor *f, int64_t rows, const struct qp_factor_rows *x, int64_t from,
                       int64_t to)
{
    for (int64_t r = 0; r < rows && f->high; r++)
        f->kernels->split(to - from, x->x + r * f->n + from, x->high + r * f->n + from, x->low + r * f->n + from);
}

void qp_factor_add(const struct qp_factor *f, int64_t rows, const struct qp_factor_rows *x,
                   const struct qp_factor_span *span, float *y)
{
    int64_t from = span->from, to = span->to, into = span->into, end = span->end, at = into * f->stride + from;
    if (!f->high) {
        f->kernels->gemm(&(struct qp_gemm){false, true, rows, end - into, to - from, 1.0f, x->x + from, f->n, f->r + at,
                                           f->n, 1.0f, y + into, f->n});
        return;
    }
    f->kernels->linear_split(&(struct qp_linear_split){.m = rows,
                                                       .n = end - into,
                                                       .k = to - from,
                                                       .x_high = x->high + from,
                                                       .x_low = x->low + from,
                                                       .x_stride = f->n,
                                                       .w_high = f->high + at,
                                                       .w_low = f->low + at,
                                                       .w_stride = f->stride,
                                                       .y = y + into,
                                                       .y_stride = f->n});
}
