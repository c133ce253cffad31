#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dnnl.h"
#include "kernels/scratch.h"

/* Tiles of ROWS by up to COLUMNS, one thread each, as in gemm.c, and DEPTH products at a time: left to itself oneDNN
 * would cut a long sum by the height of the tile (AMX does from 1,536 on), and a row would depend on what comes with
 * it. */
enum { ROWS = 256, COLUMNS = 1024, DEPTH = 1024 };

/* `all` on the calling thread, in parts of its sums. */
static void multiply(const struct qp_dnnl_product *all, const uint16_t *x, const uint16_t *w, float *y)
{
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    for (int64_t p = 0; p < all->k; p += DEPTH) {
        struct qp_dnnl_product part = *all;
        part.k = all->k - p < DEPTH ? all->k - p : DEPTH;
        part.add = all->add || p > 0;
        qp_dnnl_multiply(&part, x + p, w + p, y);
    }
    omp_set_num_threads(threads);
}

static void clear(int64_t count, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = 0;
}

void qp_linear_bf16_cpu(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    int64_t across = (n + COLUMNS - 1) / COLUMNS, tiles = (m + ROWS - 1) / ROWS * across;

    if (k == 0 && !add)
        clear(m * n, y);
    if (m == 0 || n == 0 || k == 0)
        return;
    int64_t columns = ((n + across - 1) / across + 63) / 64 * 64;
#pragma omp parallel for schedule(dynamic, 1) if (tiles > 1)
    for (int64_t t = 0; t < tiles; t++) {
        int64_t i = t / across * ROWS, j = t % across * columns;
        struct qp_dnnl_product tile = {.m = m - i < ROWS ? m - i : ROWS,
                                       .n = n - j < columns ? n - j : columns,
                                       .k = k,
                                       .x_stride = k,
                                       .w_stride = k,
                                       .y_stride = n,
                                       .add = add};
        if (j < n)
            multiply(&tile, x + i * k, w + j * k, y + i * n + j);
    }
}

/* ---- by way of float32 ---- */

/* The first rows of x[rows, n], whose rows are ld numbers apart, without gaps; rows up to `padded` are zeros. */
static float *widen(int64_t rows, int64_t padded, int64_t n, const uint16_t *x, int64_t ld)
{
    float *wide = qp_scratch((size_t)(padded * n), sizeof *wide);
    if (wide == NULL)
        return NULL;
#pragma omp parallel for if (padded * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < padded; r++)
        for (int64_t i = 0; i < n; i++)
            wide[r * n + i] = r < rows ? qp_bf16_to_f32(x[r * ld + i]) : 0;
    return wide;
}

/* Rows go in groups of this many, the last one filled up with zeros, so that all products have one shape: with AVX2
 * oneDNN sums the last row or two of a matrix in another order when they do not fill its registers. */
enum { GROUP = 64 };

/* As many rows of x are widened at once; a whole number of groups. */
enum { ROWS_AT_ONCE = 2048 };

#ifdef __x86_64__
/* y[rows, n] += a[GROUP, k] bᵀ, on the calling thread. */
static void multiply_group(int64_t rows, int64_t n, int64_t k, const float *a, const float *b, float *y, int64_t ldy)
{
    if (rows == GROUP) {
        qp_gemm_alone(&(struct qp_gemm){false, true, GROUP, n, k, 1, a, k, b, k, 1, y, ldy});
        return;
    }
    float *sums = qp_scratch((size_t)(GROUP * n), sizeof *sums);
    if (sums == NULL)
        return;
    for (int64_t r = 0; r < GROUP; r++)
        for (int64_t c = 0; c < n; c++)
            sums[r * n + c] = r < rows ? y[r * ldy + c] : 0;
    qp_gemm_alone(&(struct qp_gemm){false, true, GROUP, n, k, 1, a, k, b, k, 1, sums, n});
    for (int64_t r = 0; r < rows; r++)
        memcpy(y + r * ldy, sums + r * n, (size_t)n * sizeof *sums);
    free(sums);
}
#else
enum { LANES = 16 };

/* The same where oneDNN sums in no order that could be relied on (on AArch64 a row's place in the group counts): by k,
 * for LANES columns side by side. */
static void multiply_group(int64_t rows, int64_t n, int64_t k, const float *a, const float *b, float *y, int64_t ldy)
{
    float tile[DEPTH * LANES]; /* LANES rows of b, transposed */

    for (int64_t c = 0; c < n; c += LANES) {
        for (int64_t l = 0; l < k; l++)
            for (int64_t j = 0; j < LANES; j++)
                tile[l * LANES + j] = c + j < n ? b[(c + j) * k + l] : 0;
        for (int64_t r = 0; r < rows; r++) {
            float sum[LANES] = {0};
            for (int64_t l = 0; l < k; l++)
                for (int64_t j = 0; j < LANES; j++)
                    sum[j] += a[r * k + l] * tile[l * LANES + j];
            for (int64_t j = 0; j < LANES && c + j < n; j++)
                y[r * ldy + c + j] += sum[j];
        }
    }
}
#endif

/* Numbers between rows of w, and of y. */
struct strides {
    int64_t ldk, ldy;
};

/* y[m, n] += x[m, k] w[n, k]ᵀ for a slice of the columns, whose rows of w are ldk numbers apart. */
static void multiply_columns(int64_t m, int64_t n, int64_t k, const float *x, const uint16_t *w, struct strides s,
                             float *y)
{
    float *wide = widen(n, n, k, w, s.ldk);
    if (wide == NULL)
        return;
#pragma omp parallel for schedule(dynamic, 1) if (m > GROUP)
    for (int64_t i = 0; i < m; i += GROUP)
        multiply_group(m - i < GROUP ? m - i : GROUP, n, k, x + i * k, wide, y + i * s.ldy, s.ldy);
    free(wide);
}

/* y[m, n] += x[m, k] w[n, k]ᵀ, m at most ROWS_AT_ONCE. In slices of fixed sizes, for the reason at the top of this
 * file; they bound the copies, too. */
static void multiply_rows(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, float *y)
{
    for (int64_t p = 0; p < k; p += DEPTH) {
        int64_t depth = k - p < DEPTH ? k - p : DEPTH;
        float *a = widen(m, (m + GROUP - 1) / GROUP * GROUP, depth, x + p, k);
        for (int64_t j = 0; j < n && a != NULL; j += COLUMNS)
            multiply_columns(m, n - j < COLUMNS ? n - j : COLUMNS, depth, a, w + j * k + p, (struct strides){k, n},
                             y + j);
        free(a);
    }
}

void qp_linear_bf16_wide(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    if (!add)
        clear(m * n, y);
    for (int64_t i = 0; i < m; i += ROWS_AT_ONCE)
        multiply_rows(m - i < ROWS_AT_ONCE ? m - i : ROWS_AT_ONCE, n, k, x + i * k, w, y + i * n);
}

void qp_hessian_bf16_wide(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    for (int64_t r = 0; r < rows; r += ROWS_AT_ONCE) {
        int64_t count = rows - r < ROWS_AT_ONCE ? rows - r : ROWS_AT_ONCE;
        float *wide = widen(count, count, n, x + r * n, n);
        if (wide != NULL)
            qp_hessian_cpu(count, n, wide, h);
        free(wide);
    }
}
