#include <omp.h>
#include <stdlib.h>

#include "kernels/cpu/cpu.h"
#include "kernels/peak.h"
#include "kernels/scratch.h"

/* Tiles of ROWS by up to COLUMNS, one thread each: large enough for the library, whose sums are still in the cache when
 * they are scaled. */
enum { ROWS = 256, COLUMNS = 512 };

/* Sums of rows of codes [rows, k], if somebody needs them: zero points of the other operand multiply them. */
static int64_t *sums_of_rows(bool needed, int64_t rows, int64_t k, const int8_t *codes)
{
    if (!needed)
        return NULL;
    int64_t *sums = qp_scratch((size_t)rows, sizeof *sums);
    if (sums == NULL)
        return NULL;
#pragma omp parallel for if (rows * k >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (int64_t c = 0; c < k; c++)
            sum += codes[r * k + c];
        sums[r] = sum;
    }
    return sums;
}

struct zeros {
    int64_t *x_sums, *w_sums; /* of x where w has zero points, of w where x has; else NULL */
};

/* A row of a tile from its sums of products, without zero points and with them. */
static void scale_row(int64_t n, const int32_t *restrict sums, float x_scale, const float *restrict w_scale, bool add,
                      float *restrict y)
{
    for (int64_t j = 0; j < n; j++) {
        float value = (float)sums[j] * x_scale * w_scale[j];
        y[j] = add ? y[j] + value : value;
    }
}

static void scale_shifted_row(const struct qp_linear_int8 *l, const struct zeros *z, int64_t i, int64_t first,
                              int64_t n, const int32_t *sums, float *y)
{
    int64_t x_zero = l->x_zero == NULL ? 0 : l->x_zero[i], x_sum = z->x_sums == NULL ? 0 : z->x_sums[i];

    for (int64_t j = 0; j < n; j++) {
        int64_t w_zero = l->w_zero == NULL ? 0 : l->w_zero[first + j];
        int64_t w_sum = z->w_sums == NULL ? 0 : z->w_sums[first + j];
        int64_t sum = sums[j] - w_zero * x_sum - x_zero * w_sum + l->k * x_zero * w_zero;
        float value = (float)sum * l->x_scale[i] * l->w_scale[first + j];
        y[j] = l->add ? y[j] + value : value;
    }
}

static void add_tile(const struct qp_linear_int8 *l, const struct zeros *z, int64_t row, int64_t column, int64_t m,
                     int64_t n, int32_t *sums)
{
    qp_product_int8(m, n, l->k, l->x + row * l->k, l->w + column * l->k, sums);
    for (int64_t i = 0; i < m; i++) {
        float *y = l->y + (row + i) * l->n + column;
        if (z->x_sums == NULL && z->w_sums == NULL)
            scale_row(n, sums + i * n, l->x_scale[row + i], l->w_scale + column, l->add, y);
        else
            scale_shifted_row(l, z, row + i, column, n, sums + i * n, y);
    }
}

void qp_linear_int8_cpu(const struct qp_linear_int8 *l)
{
    int64_t across = (l->n + COLUMNS - 1) / COLUMNS, tiles = (l->m + ROWS - 1) / ROWS * across;

    if (l->k == 0)
        qp_linear_int8_ref(l);
    if (l->m == 0 || l->n == 0 || l->k == 0)
        return;
    int64_t columns = ((l->n + across - 1) / across + 63) / 64 * 64;
    struct zeros z = {sums_of_rows(l->w_zero != NULL, l->m, l->k, l->x),
                      sums_of_rows(l->x_zero != NULL, l->n, l->k, l->w)};
#pragma omp parallel if (tiles > 1)
    {
        int threads = omp_get_max_threads();
        int32_t *sums = qp_scratch((size_t)ROWS * COLUMNS, sizeof *sums);
        omp_set_num_threads(1); /* the library's own */
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t i = t / across * ROWS, j = t % across * columns;
            if (j < l->n && sums != NULL)
                add_tile(l, &z, i, j, l->m - i < ROWS ? l->m - i : ROWS, l->n - j < columns ? l->n - j : columns, sums);
        }
        omp_set_num_threads(threads);
        free(sums);
    }
    free(z.x_sums);
    free(z.w_sums);
}
