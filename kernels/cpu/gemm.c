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

void qp_gemm_alone(const struct qp_gemm *g)
{
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    dnnl_sgemm(g->ta ? 'T' : 'N', g->tb ? 'T' : 'N', g->m, g->n, g->k, g->alpha, g->a, g->lda, g->b, g->ldb, g->beta,
               g->c, g->ldc);
    omp_set_num_threads(threads);
}

static void scale(int64_t m, int64_t n, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

void qp_gemm_cpu(const struct qp_gemm *g)
{
    if (g->m == 0 || g->n == 0 || g->k == 0) {
        scale(g->m, g->n, g->beta, g->c, g->ldc);
        return;
    }
    int64_t columns = piece(g->n, MOST_COLUMNS, 48), across = (g->n + columns - 1) / columns;
    int64_t rows = tile_rows(g->m, across), tiles = (g->m + rows - 1) / rows * across;

#pragma omp parallel for schedule(dynamic, 1) if (tiles > 1)
    for (int64_t t = 0; t < tiles; t++) {
        int64_t i = t / across * rows, j = t % across * columns;
        qp_gemm_alone(
            &(struct qp_gemm){g->ta, g->tb, g->m - i < rows ? g->m - i : rows, g->n - j < columns ? g->n - j : columns,
                              g->k, g->alpha, g->ta ? g->a + i : g->a + i * g->lda, g->lda,
                              g->tb ? g->b + j * g->ldb : g->b + j, g->ldb, g->beta, g->c + i * g->ldc + j, g->ldc});
    }
}
