#include <omp.h>

#include "kernels/cpu/bf16/bf16.h"
#include "kernels/cpu/dnnl.h"

/* Tiles of ROWS by up to COLUMNS, one thread each. */
enum { ROWS = 256, COLUMNS = 1024 };

void qp_split_bf16(int64_t count, const float *x, uint16_t *high, uint16_t *low)
{
    for (int64_t i = 0; i < count; i++) {
        high[i] = qp_f32_to_bf16(x[i]);
        low[i] = qp_f32_to_bf16(x[i] - qp_bf16_to_f32(high[i]));
    }
}

static void multiply_tile(const struct qp_linear_split *l, int64_t row, int64_t column)
{
    const uint16_t *x[] = {l->x_low, l->x_high, l->x_high}, *w[] = {l->w_high, l->w_low, l->w_high};
    struct qp_dnnl_product product = {.m = l->m - row < ROWS ? l->m - row : ROWS,
                                      .n = l->n - column < COLUMNS ? l->n - column : COLUMNS,
                                      .k = l->k,
                                      .x_stride = l->x_stride,
                                      .w_stride = l->w_stride,
                                      .y_stride = l->y_stride,
                                      .add = true};
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    for (int i = 0; i < 3; i++)
        qp_dnnl_multiply(&product, x[i] + row * l->x_stride, w[i] + column * l->w_stride,
                         l->y + row * l->y_stride + column);
    omp_set_num_threads(threads);
}

void qp_linear_split_tiles(const struct qp_linear_split *l)
{
    int64_t down = (l->m + ROWS - 1) / ROWS, across = (l->n + COLUMNS - 1) / COLUMNS;

    if (l->k == 0)
        return;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) if (down * across > 1)
    for (int64_t i = 0; i < down; i++)
        for (int64_t j = 0; j < across; j++)
            multiply_tile(l, i * ROWS, j * COLUMNS);
}
