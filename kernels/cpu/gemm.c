#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

/* oneDNN would choose how to cut a product, k included, by the number of threads; here it multiplies tiles, one thread
 * each, on a grid of tiles that follows from the shape alone. So the result does not depend on the number of threads.
 */
enum { LEAST_ROWS = 128, MOST_ROWS = 512, MOST_COLUMNS = 1024, WANTED_TILES = 8 };

/* Cuts n into equal pieces of at most `most`, whole multiples of `unit` (but for the last). */
static int64_t piece(int64_t n, int64_t most, int64_t unit)
{
    int64_t pieces = (n + most - 1) / most, each = (n + pieces - 1) / pieces;
    return (each + unit - 1) / unit * unit;
}

static int64_t tile_rows(int64_t m, int64_t column_pieces)
{
    int64_t most = m * column_pieces / WANTED_TILES;
    most = most < LEAST_ROWS ? LEAST_ROWS : most > MOST_ROWS ? MOST_ROWS : most;
    return piece(m, most, 8);
}

void qp_gemm_alone(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                   const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    omp_set_num_threads(threads);
}

static void scale(int64_t m, int64_t n, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

void qp_gemm_cpu(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                 const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    if (m == 0 || n == 0 || k == 0) {
        scale(m, n, beta, c, ldc);
        return;
    }
    int64_t columns = piece(n, MOST_COLUMNS, 48), across = (n + columns - 1) / columns;
    int64_t rows = tile_rows(m, across), tiles = (m + rows - 1) / rows * across;

#pragma omp parallel for schedule(dynamic, 1) if (tiles > 1)
    for (int64_t t = 0; t < tiles; t++) {
        int64_t i = t / across * rows, j = t % across * columns;
        qp_gemm_alone(ta, tb, m - i < rows ? m - i : rows, n - j < columns ? n - j : columns, k, alpha,
                      ta ? a + i : a + i * lda, lda, tb ? b + j * ldb : b + j, ldb, beta, c + i * ldc + j, ldc);
    }
}
