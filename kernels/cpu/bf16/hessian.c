#include <stdlib.h>

#include "kernels/cpu/bf16/bf16.h"
#include "kernels/scratch.h"

/* h is cut into tiles of PANEL by PANEL, on and above the diagonal. A tile takes its columns of x from two panels,
 * whose rows are interleaved: ROWS pairs of one, broadcast, by all of the other. Each element is summed over the rows
 * in registers before it is added to h. */
enum { VECTORS = 3, PANEL = VECTORS * LANES, ROWS = 8 };

/* Pairs of rows of panel j; without a second row, and after the last column, there are zeros. */
static void pack(int64_t rows, int64_t n, int64_t j, const uint16_t *x, uint32_t *panel)
{
    int64_t columns = n - j * PANEL < PANEL ? n - j * PANEL : PANEL;

    for (int64_t r = 0; r < rows; r += 2, panel += PANEL) {
        const uint16_t *a = x + r * n + j * PANEL, *b = a + n;
        for (int64_t i = 0; i < columns; i++)
            panel[i] = pair_of(a[i], r + 1 < rows ? b[i] : 0);
        for (int64_t i = columns; i < PANEL; i++)
            panel[i] = 0;
    }
}

/* sum[ROWS, PANEL] = the first ROWS columns of a with all of b. */
static __attribute__((noinline)) void product(int64_t pairs, const uint32_t *a, const uint32_t *b, float *out)
{
    vf sum[ROWS][VECTORS] = {0};

    for (int64_t l = 0; l < pairs; l++, a += PANEL, b += PANEL) {
        __m512bh y[VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++)
            y[j] = v_pairs(b + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            __m512bh x = v_pair(a + i);
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; j++)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], x, y[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; j++)
            v_store(out + i * PANEL + j * LANES, sum[i][j]);
}

static void add_tile(int64_t n, int64_t row, int64_t column, int64_t pairs, const uint32_t *a, const uint32_t *b,
                     float *h)
{
    float sum[ROWS * PANEL];
    int64_t columns = n - column < PANEL ? n - column : PANEL;

    for (int64_t top = 0; top < PANEL && row + top < n; top += ROWS) {
        product(pairs, a + top, b, sum);
        for (int64_t i = 0; i < ROWS && row + top + i < n; i++)
            for (int64_t j = 0; j < columns; j++)
                h[(row + top + i) * n + column + j] += sum[i * PANEL + j];
    }
}

static void add_rows(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    int64_t panels = (n + PANEL - 1) / PANEL, pairs = (rows + 1) / 2, size = pairs * PANEL;
    uint32_t *packed;

    packed = qp_scratch((size_t)(panels * size), sizeof *packed);
    if (packed == NULL)
        return;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int64_t j = 0; j < panels; j++)
            pack(rows, n, j, x, packed + j * size);
            /* The last panel has the most above it, so that no thread is left with a long one at the end. */
#pragma omp for schedule(dynamic, 1)
        for (int64_t j = panels - 1; j >= 0; j--)
            for (int64_t i = 0; i <= j; i++)
                add_tile(n, i * PANEL, j * PANEL, pairs, packed + i * size, packed + j * size, h);
    }
    free(packed);
}

void qp_hessian_bf16_pairs(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    for (int64_t r = 0; r < rows && n > 0; r += QP_HESSIAN_ROWS)
        add_rows(rows - r < QP_HESSIAN_ROWS ? rows - r : QP_HESSIAN_ROWS, n, x + r * n, h);
}
