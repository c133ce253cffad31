#include "kernels/cpu/cpu.h"

/* A tile of columns, and how many tiles stand above each other in one product: the tile on the diagonal computes its
 * lower half for nothing, so tiles are a small part of n; one product is tall, because tall ones are fast. */
enum { LEAST = 96, MOST = 512, PARTS = 8, TALL = 4 };

static int64_t tile_width(int64_t n)
{
    int64_t width = (n / PARTS + 47) / 48 * 48;
    return width < LEAST ? LEAST : width > MOST ? MOST : width;
}

/* Column tile j in products of up to TALL tiles of rows, for as many threads as there are products. */
void qp_hessian_cpu(int64_t rows, int64_t n, const float *x, float *h)
{
    int64_t width = tile_width(n), tall = width * TALL, across = (n + width - 1) / width;

    if (rows == 0)
        return;
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t column = across - 1; column >= 0; column--)
        for (int64_t row = 0; row < (across + TALL - 1) / TALL; row++) {
            int64_t i = row * tall, j = column * width;
            int64_t columns = n - j < width ? n - j : width, end = j + columns;
            if (i < end)
                qp_gemm_alone(&(struct qp_gemm){true, false, end - i < tall ? end - i : tall, columns, rows, 1, x + i,
                                                n, x + j, n, 1, h + i * n + j, n});
        }
}

/* In tiles, so that neither side runs across memory column by column. */
void qp_mirror_cpu(int64_t n, float *h)
{
    const int64_t tile = 32;

#pragma omp parallel for schedule(dynamic, 1) if (n * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t top = 0; top < n; top += tile)
        for (int64_t left = 0; left <= top; left += tile)
            for (int64_t i = top; i < top + tile && i < n; i++)
                for (int64_t j = left; j < left + tile && j < i; j++)
                    h[i * n + j] = h[j * n + i];
}
