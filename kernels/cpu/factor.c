#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/scratch.h"

/* From the last block of columns to the first: the block on the diagonal is factored, the columns above it become those
 * of R by a product with its inverse, and what they contribute is taken off the rest by products of tiles, TALL rows by
 * up to WIDE columns on and above the diagonal, one thread each. A block on the diagonal is factored the same way, in
 * smaller blocks. All sums follow from n alone, whatever the threads. */
enum { BLOCK = QP_FACTOR_COLUMNS, SMALL = 32, TALL = 256, WIDE = 1024 };

/* a[n, n] = R Rᵀ on and above the diagonal, a column at a time; n is at most SMALL. Returns as the contract says. */
static int64_t factor_small(int64_t n, float *a, int64_t stride)
{
    float column[SMALL];

    for (int64_t j = n - 1; j >= 0; j--) {
        float pivot = a[j * stride + j];
        if (!(pivot > 0))
            return n - j;
        a[j * stride + j] = pivot = sqrtf(pivot);
        for (int64_t i = 0; i < j; i++)
            a[i * stride + j] = column[i] = a[i * stride + j] / pivot;
        for (int64_t i = 0; i < j; i++)
            for (int64_t k = i; k < j; k++)
                a[i * stride + k] -= column[i] * column[k];
    }
    return 0;
}

static float dot(int64_t count, const float *a, const float *b)
{
    enum { SUMS = 8 };
    float sum[SUMS] = {0}, rest = 0;
    int64_t i = 0;

    for (; i + SUMS <= count; i += SUMS)
        for (int k = 0; k < SUMS; k++)
            sum[k] += a[i + k] * b[i + k];
    for (; i < count; i++)
        rest += a[i] * b[i];
    for (int k = 0; k < SUMS; k++)
        rest += sum[k];
    return rest;
}

/* inverse[n, n] = (R⁻¹)ᵀ of upper triangular R: row j is column j of R⁻¹, by substitution from the diagonal up. */
static void invert_transposed(int64_t n, const float *r, int64_t stride, float *inverse)
{
    memset(inverse, 0, (size_t)(n * n) * sizeof *inverse);
#pragma omp parallel for schedule(dynamic, 16) if (n > SMALL)
    for (int64_t j = n - 1; j >= 0; j--) {
        float *x = inverse + j * n;
        x[j] = 1 / r[j * stride + j];
        for (int64_t i = j - 1; i >= 0; i--)
            x[i] = -dot(j - i, r + i * stride + i + 1, x + i + 1) / r[i * stride + i];
    }
}

static void take_off(const struct qp_take_off *t)
{
    int64_t rows = t->rows, down = (rows + TALL - 1) / TALL, across = (rows + WIDE - 1) / WIDE;

#pragma omp parallel for collapse(2) schedule(dynamic, 1) if (rows > TALL)
    for (int64_t i = 0; i < down; i++)
        for (int64_t j = 0; j < across; j++) {
            int64_t row = i * TALL, column = row + j * WIDE;
            if (column < rows)
                qp_gemm_alone(&(struct qp_gemm){false, true, rows - row < TALL ? rows - row : TALL,
                                                rows - column < WIDE ? rows - column : WIDE, t->depth, -1,
                                                t->p + row * t->p_stride, t->p_stride, t->p + column * t->p_stride,
                                                t->p_stride, 1, t->a + row * t->stride + column, t->stride});
        }
}

/* What the steps below need: [BLOCK, BLOCK] for the inverse of a block, [n, BLOCK] for the columns above it. */
struct workspace {
    float *inverse, *above;
    qp_take_off_fn *take_off;
    void *space;
};

static int64_t factor_blocks(int64_t n, int64_t block, float *a, int64_t stride, const struct workspace *w)
{
    for (int64_t end = n; end > 0;) {
        int64_t at = (end - 1) / block * block, count = end - at;
        float *diagonal = a + at * stride + at;
        int64_t failed =
            count <= SMALL ? factor_small(count, diagonal, stride) : factor_blocks(count, SMALL, diagonal, stride, w);
        if (failed != 0)
            return n - end + failed;
        if (at > 0) {
            invert_transposed(count, diagonal, stride, w->inverse);
            for (int64_t i = 0; i < at; i++)
                memcpy(w->above + i * count, a + i * stride + at, (size_t)count * sizeof *a);
            qp_gemm_cpu(&(struct qp_gemm){false, false, at, count, count, 1, w->above, count, w->inverse, count, 0,
                                          a + at, stride});
            w->take_off(&(struct qp_take_off){at, count, a + at, stride, a, stride, w->space});
        }
        end = at;
    }
    return 0;
}

static void clear_below(int64_t n, float *h)
{
#pragma omp parallel for schedule(static) if (n * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 1; i < n; i++)
        memset(h + i * n, 0, (size_t)i * sizeof *h);
}

int64_t qp_factor_by(int64_t n, float *h, qp_take_off_fn *take, void *space)
{
    int64_t block = n < BLOCK ? n : BLOCK;
    struct workspace w = {.inverse = qp_scratch((size_t)(block * block) + 1, sizeof *w.inverse),
                          .above = qp_scratch((size_t)(n * block) + 1, sizeof *w.above),
                          .take_off = take,
                          .space = space};
    int64_t failed = w.inverse == NULL || w.above == NULL ? -1 : factor_blocks(n, BLOCK, h, n, &w);

    if (failed == 0)
        clear_below(n, h);
    free(w.inverse);
    free(w.above);
    return failed;
}

int64_t qp_factor_cpu(int64_t n, float *h)
{
    return qp_factor_by(n, h, take_off, NULL);
}
