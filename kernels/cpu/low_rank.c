#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/scratch.h"

/* Below this order the threads of LAPACK's eigensolver mostly wait for each other. */
enum { LEAST_SHARED = 1024 };

/* All matrices here are row-major float64. */
static double *widen(int64_t count, const float *x)
{
    double *wide = qp_scratch((size_t)count, sizeof *wide);
#pragma omp parallel for simd if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++)
        wide[i] = x[i];
    return wide;
}

static bool finite_all(int64_t count, const double *x)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += 0.0 * x[i];
    return sum == 0.0;
}

static void swap_rows(int64_t count, double *x, double *y)
{
    for (int64_t i = 0; i < count; i++) {
        double t = x[i];
        x[i] = y[i];
        y[i] = t;
    }
}

static lapack_int syevr(lapack_int n, lapack_int rank, double *g, double *values, double *vectors, double *work,
                        lapack_int lwork, lapack_int *iwork, lapack_int liwork)
{
    lapack_int count, *support = qp_scratch(2 * (size_t)n, sizeof *support);
    int threads = omp_get_max_threads();
    omp_set_num_threads(n < LEAST_SHARED ? 1 : threads);
    lapack_int failed = LAPACKE_dsyevr_work(LAPACK_COL_MAJOR, 'V', 'I', 'L', n, g, n, 0.0, 0.0, n - rank + 1, n, 0.0,
                                            &count, values, vectors, n, support, work, lwork, iwork, liwork);
    omp_set_num_threads(threads);
    free(support);
    return failed;
}

/* vectors[rank, n]: the eigenvectors of g[n, n] (overwritten) by falling eigenvalue. LAPACK sees the transpose, which
 * is the same matrix, and puts out one vector after the other by rising eigenvalue. */
static int largest_vectors(int64_t n, int64_t rank, double *g, double *values, double *vectors)
{
    double wanted;
    lapack_int order = (lapack_int)n, count = (lapack_int)rank, whole;
    if (syevr(order, count, g, values, vectors, &wanted, -1, &whole, -1) != 0)
        return -1;
    double *work = qp_scratch((size_t)wanted, sizeof *work);
    lapack_int *iwork = qp_scratch((size_t)whole, sizeof *iwork);
    lapack_int failed = syevr(order, count, g, values, vectors, work, (lapack_int)wanted, iwork, whole);
    free(work);
    free(iwork);
    for (int64_t k = 0; k < rank / 2 && failed == 0; k++) {
        swap_rows(1, values + k, values + rank - 1 - k);
        swap_rows(n, vectors + k * n, vectors + (rank - 1 - k) * n);
    }
    return failed == 0 ? 0 : -1;
}

/* 0 with f[n, n], f fᵀ = h, -1 when h is not finite: the pivoted Cholesky factor, which semidefinite matrices have as
 * well. What is left when the largest pivot has fallen to float32's rounding of h is taken for 0. */
static int factor(int64_t n, const float *h, double *f)
{
    lapack_int order = (lapack_int)n, rank = order, *pivots = qp_scratch((size_t)n, sizeof *pivots);
    double *l = widen(n * n, h), *work = qp_scratch(2 * (size_t)n, sizeof *work), largest = 0.0;
    bool finite = finite_all(n * n, l);
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, l[i * n + i]);
    LAPACKE_dpstrf_work(LAPACK_COL_MAJOR, 'U', order, l, order, pivots, &rank, 1e-7 * largest, work);
    memset(f, 0, (size_t)(n * n) * sizeof *f);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i && j < rank; j++)
            f[(pivots[i] - 1) * n + j] = l[i * n + j];
    free(work);
    free(pivots);
    free(l);
    return finite ? 0 : -1;
}

/* Few rows: eigenvectors of e H eᵀ. */
static int from_rows(int64_t rows, int64_t cols, int64_t rank, const double *e, const float *h, double *u)
{
    double *g = qp_scratch((size_t)(rows * rows), sizeof *g), *values = qp_scratch((size_t)rows, sizeof *values);
    blasint m = (blasint)rows, n = (blasint)cols;
    double *metric = h ? widen(cols * cols, h) : NULL, *eh = h ? qp_scratch((size_t)(rows * cols), sizeof *eh) : NULL;
    if (h)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, n, 1.0, e, n, metric, n, 0.0, eh, n);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, m, n, 1.0, h ? eh : e, n, e, n, 0.0, g, m);
    double trace = 0.0;
    for (int64_t i = 0; i < rows; i++)
        trace += g[i * rows + i];
    int r = finite_all(rows * rows, g) ? largest_vectors(rows, rank, g, values, u) : -1;
    for (int64_t k = 0; k < rank && r == 0; k++)
        if (!(values[k] > QP_LOW_RANK_NOTHING * trace))
            memset(u + k * rows, 0, (size_t)rows * sizeof *u);
    free(g);
    free(values);
    free(metric);
    free(eh);
    return r;
}

/* t[rows, cols] = e F with F Fᵀ = h. */
static int times_factor(int64_t rows, int64_t cols, const double *e, const float *h, double *t)
{
    double *f = qp_scratch((size_t)(cols * cols), sizeof *f);
    blasint m = (blasint)rows, n = (blasint)cols;
    int r = factor(cols, h, f);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, n, 1.0, e, n, f, n, 0.0, t, n);
    free(f);
    return r;
}

/* Divides a vector by its length, or makes it 0. */
static void normalize(int64_t count, bool nothing, double *v)
{
    double square = 0.0;
    for (int64_t i = 0; i < count; i++)
        square += v[i] * v[i];
    for (int64_t i = 0; i < count; i++)
        v[i] = nothing ? 0.0 : v[i] / sqrt(square);
}

/* Few columns: with T = e F, eigenvectors v of Tᵀ T, and T v divided by its length. */
static int from_columns(int64_t rows, int64_t cols, int64_t rank, const double *e, const float *h, double *u)
{
    double *g = qp_scratch((size_t)(cols * cols), sizeof *g), *values = qp_scratch((size_t)cols, sizeof *values);
    double *v = qp_scratch((size_t)(rank * cols), sizeof *v), trace = 0.0;
    double *ef = h ? qp_scratch((size_t)(rows * cols), sizeof *ef) : NULL;
    blasint m = (blasint)rows, n = (blasint)cols, k = (blasint)rank;
    const double *t = h ? ef : e;
    int r = h ? times_factor(rows, cols, e, h, ef) : 0;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, n, m, 1.0, t, n, t, n, 0.0, g, n);
    for (int64_t i = 0; i < cols; i++)
        trace += g[i * cols + i];
    if (r == 0)
        r = finite_all(cols * cols, g) ? largest_vectors(cols, rank, g, values, v) : -1;
    if (r == 0)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, k, m, n, 1.0, v, n, t, n, 0.0, u, m);
    for (int64_t i = 0; i < rank && r == 0; i++)
        normalize(rows, !(values[i] > QP_LOW_RANK_NOTHING * trace), u + i * rows);
    free(g);
    free(values);
    free(v);
    free(ef);
    return r;
}

int qp_low_rank_cpu(int64_t rows, int64_t cols, int64_t rank, const float *e, const float *h, float *b, float *a)
{
    if (rank == 0)
        return 0;
    double *wide = widen(rows * cols, e), *u = qp_scratch((size_t)(rank * rows), sizeof *u);
    double *ue = qp_scratch((size_t)(rank * cols), sizeof *ue);
    int r = rows <= cols ? from_rows(rows, cols, rank, wide, h, u) : from_columns(rows, cols, rank, wide, h, u);
    if (r == 0) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rank, (blasint)cols, (blasint)rows, 1.0, u,
                    (blasint)rows, wide, (blasint)cols, 0.0, ue, (blasint)cols);
        for (int64_t i = 0; i < rank * cols; i++)
            a[i] = (float)ue[i];
        for (int64_t i = 0; i < rank * rows; i++)
            b[i % rows * rank + i / rows] = (float)u[i];
    }
    free(wide);
    free(u);
    free(ue);
    return r;
}
