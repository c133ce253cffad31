#include <omp.h>
#include <stdlib.h>

#include "kernels/cpu/bf16/bf16.h"
#include "kernels/cpu/dnnl.h"
#include "kernels/scratch.h"

/* For CPUs with AMX, where oneDNN's products of BF16 are many times as fast as vdpbf16ps: x is transposed, and h cut
 * into tiles, on and above the diagonal, of TALL rows and up to WIDE columns. One thread computes a tile, over
 * QP_HESSIAN_ROWS rows of x at once, which the transposed copy takes as much memory as. */
enum { TALL = 256, WIDE = 1024 };

/* Columns and rows that are transposed at once. */
enum { COLUMNS = 16, ROWS = 2 * COLUMNS };

/* to[columns, ROWS] = x[rows, columns]ᵀ, zeros after the last row. */
static void transpose_tile(int64_t rows, int64_t columns, int64_t n, const uint16_t *x, uint16_t *to, int64_t stride)
{
    __mmask16 wanted = (__mmask16)((1u << columns) - 1);
    __m512i pair[COLUMNS];

    for (int i = 0; i < COLUMNS; i++) {
        const uint16_t *a = x + 2 * i * n;
        __m256i none = _mm256_setzero_si256();
        __m256i first = 2 * i < rows ? _mm256_maskz_loadu_epi16(wanted, a) : none;
        __m256i second = 2 * i + 1 < rows ? _mm256_maskz_loadu_epi16(wanted, a + n) : none;
        pair[i] = _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
    }
    v_transpose_integers(pair);
    for (int i = 0; i < columns; i++)
        _mm512_storeu_si512(to + i * stride, pair[i]);
}

/* to[n, stride] = x[rows, n]ᵀ; stride is `rows`, rounded up to a multiple of ROWS. */
static void transpose(int64_t rows, int64_t n, const uint16_t *x, uint16_t *to, int64_t stride)
{
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < n; j += COLUMNS)
        for (int64_t r = 0; r < rows; r += ROWS)
            transpose_tile(rows - r < ROWS ? rows - r : ROWS, n - j < COLUMNS ? n - j : COLUMNS, n, x + r * n + j,
                           to + j * stride + r, stride);
}

static void add_tile(int64_t n, int64_t row, int64_t column, int64_t rows, int64_t stride, const uint16_t *x, float *h)
{
    struct qp_dnnl_product product = {.m = n - row < TALL ? n - row : TALL,
                                      .n = n - column < WIDE ? n - column : WIDE,
                                      .k = rows,
                                      .x_stride = stride,
                                      .w_stride = stride,
                                      .y_stride = n,
                                      .add = true};
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    qp_dnnl_multiply(&product, x + row * stride, x + column * stride, h + row * n + column);
    omp_set_num_threads(threads);
}

static void add_rows(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    int64_t stride = (rows + ROWS - 1) / ROWS * ROWS, across = (n + WIDE - 1) / WIDE, down = (n + TALL - 1) / TALL;
    uint16_t *transposed = qp_scratch((size_t)(n * stride), sizeof *transposed);

    if (transposed == NULL)
        return;
    transpose(rows, n, x, transposed, stride);
#pragma omp parallel for collapse(2) schedule(dynamic, 1)
    for (int64_t i = 0; i < down; i++)
        for (int64_t j = 0; j < across; j++)
            if (i * TALL + j * WIDE < n)
                add_tile(n, i * TALL, i * TALL + j * WIDE, rows, stride, transposed, h);
    free(transposed);
}

void qp_hessian_bf16_tiles(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    for (int64_t r = 0; r < rows && n > 0; r += QP_HESSIAN_ROWS)
        add_rows(rows - r < QP_HESSIAN_ROWS ? rows - r : QP_HESSIAN_ROWS, n, x + r * n, h);
}
