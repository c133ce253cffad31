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

/* Parts of the largest matrices are computed one after the other, each of about this size, and summed in that order. */
#define PART_BYTES ((int64_t)64 << 20)

/* All matrices here are row-major float64; those whose memory was not there are NULL, and the operation failed. */
static double *new_matrix(int64_t rows, int64_t cols)
{
    return qp_scratch((size_t)(rows * cols), sizeof(double));
}

static void widen(int64_t count, const float *x, double *wide)
{
#pragma omp parallel for simd if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++)
        wide[i] = x[i];
}

/* c[m, n] = a b + beta c, a transposed or b transposed in memory where it is said; rows of each are so far apart. */
struct product {
    bool ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    double beta;
};

static void multiply(const struct product *p, const double *a, const double *b, double *c)
{
    cblas_dgemm(CblasRowMajor, p->ta ? CblasTrans : CblasNoTrans, p->tb ? CblasTrans : CblasNoTrans, (blasint)p->m,
                (blasint)p->n, (blasint)p->k, 1.0, a, (blasint)p->lda, b, (blasint)p->ldb, p->beta, c, (blasint)p->ldc);
}

/* How many rows of so many numbers make a part. */
static int64_t part_rows(int64_t rows, int64_t numbers)
{
    int64_t most = PART_BYTES / (numbers * (int64_t)sizeof(double));
    return most < 64 ? (rows < 64 ? rows : 64) : most < rows ? most : rows;
}

static double trace_of(int64_t n, const double *g)
{
    double trace = 0.0;
    for (int64_t i = 0; i < n; i++)
        trace += g[i * n + i];
    return trace;
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

/* What LAPACK works in; -1 as a size asks for it. */
struct lapack_workspace {
    double *work;
    lapack_int lwork, *iwork, liwork;
};

static lapack_int syevr(lapack_int n, lapack_int rank, double *g, double *values, double *vectors,
                        const struct lapack_workspace *w)
{
    lapack_int count, *support = qp_scratch(2 * (size_t)n, sizeof *support);
    if (support == NULL)
        return -1;
    int threads = omp_get_max_threads();
    omp_set_num_threads(n < LEAST_SHARED ? 1 : threads);
    lapack_int failed =
        LAPACKE_dsyevr_work(LAPACK_COL_MAJOR, 'V', 'I', 'L', n, g, n, 0.0, 0.0, n - rank + 1, n, 0.0, &count, values,
                            vectors, n, support, w->work, w->lwork, w->iwork, w->liwork);
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
    if (syevr(order, count, g, values, vectors, &(struct lapack_workspace){&wanted, -1, &whole, -1}) != 0)
        return -1;
    double *work = qp_scratch((size_t)wanted, sizeof *work);
    lapack_int *iwork = qp_scratch((size_t)whole, sizeof *iwork);
    lapack_int failed = -1;
    if (work != NULL && iwork != NULL)
        failed =
            syevr(order, count, g, values, vectors, &(struct lapack_workspace){work, (lapack_int)wanted, iwork, whole});
    free(work);
    free(iwork);
    for (int64_t k = 0; k < rank / 2 && failed == 0; k++) {
        swap_rows(1, values + k, values + rank - 1 - k);
        swap_rows(n, vectors + k * n, vectors + (rank - 1 - k) * n);
    }
    return failed == 0 ? 0 : -1;
}

/* f[n, n] from what LAPACK left: its rows were exchanged. */
static void arrange(int64_t n, const double *l, const lapack_int *pivots, lapack_int rank, double *f)
{
    memset(f, 0, (size_t)(n * n) * sizeof *f);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i && j < rank; j++)
            f[(pivots[i] - 1) * n + j] = l[i * n + j];
}

/* 0 with f[n, n], f fᵀ = h, -1 when h is not finite: the pivoted Cholesky factor, which semidefinite matrices have as
 * well. What is left when the largest pivot has fallen to float32's rounding of h is taken for 0. */
static int factor(int64_t n, const float *h, double *f)
{
    lapack_int order = (lapack_int)n, rank = order, *pivots = qp_scratch((size_t)n, sizeof *pivots);
    double *l = new_matrix(n, n), *work = new_matrix(2, n), largest = 0.0;
    bool good = pivots != NULL && l != NULL && work != NULL;
    if (good) {
        widen(n * n, h, l);
        good = finite_all(n * n, l);
    }
    for (int64_t i = 0; i < n && good; i++)
        largest = fmax(largest, l[i * n + i]);
    if (good)
        good = LAPACKE_dpstrf_work(LAPACK_COL_MAJOR, 'U', order, l, order, pivots, &rank, 1e-7 * largest, work) >= 0;
    if (good)
        arrange(n, l, pivots, rank, f);
    free(work);
    free(pivots);
    free(l);
    return good ? 0 : -1;
}

/* g[rows, rows] = e H eᵀ, H and e H a few columns at a time. H is symmetric, so its rows are its columns. */
static int gram_with(int64_t rows, int64_t cols, const double *e, const float *h, double *g)
{
    int64_t step = part_rows(cols, rows + cols);
    double *some = new_matrix(step, cols), *eh = new_matrix(rows, step);
    bool good = some != NULL && eh != NULL;
    for (int64_t j = 0; j < cols && good; j += step) {
        int64_t n = cols - j < step ? cols - j : step;
        widen(n * cols, h + j * cols, some);
        multiply(&(struct product){.tb = true, .m = rows, .n = n, .k = cols, .lda = cols, .ldb = cols, .ldc = n}, e,
                 some, eh);
        multiply(
            &(struct product){
                .tb = true, .m = rows, .n = rows, .k = n, .lda = n, .ldb = cols, .ldc = rows, .beta = j > 0},
            eh, e + j, g);
    }
    free(some);
    free(eh);
    return good ? 0 : -1;
}

/* Few rows: eigenvectors of e H eᵀ. */
static int from_rows(int64_t rows, int64_t cols, int64_t rank, const double *e, const float *h, double *u)
{
    double *g = new_matrix(rows, rows), *values = new_matrix(1, rows), trace = 0.0;
    int r = g != NULL && values != NULL ? 0 : -1;
    if (r == 0 && h)
        r = gram_with(rows, cols, e, h, g);
    else if (r == 0)
        multiply(&(struct product){.tb = true, .m = rows, .n = rows, .k = cols, .lda = cols, .ldb = cols, .ldc = rows},
                 e, e, g);
    if (r == 0) {
        trace = trace_of(rows, g);
        r = finite_all(rows * rows, g) ? largest_vectors(rows, rank, g, values, u) : -1;
    }
    for (int64_t k = 0; k < rank && r == 0; k++)
        if (!(values[k] > QP_LOW_RANK_NOTHING * trace))
            memset(u + k * rows, 0, (size_t)rows * sizeof *u);
    free(g);
    free(values);
    return r;
}

/* T = e F a few rows at a time. */
struct tall {
    int64_t rows, cols, step;
    const double *e, *f; /* f NULL: T = e */
    double *part;        /* [step, cols] */
    int64_t held;        /* first row of what is in part; -1: nothing */
};

/* Rows [first, first + n) of T. */
static const double *rows_of(struct tall *t, int64_t first, int64_t n)
{
    if (t->f == NULL)
        return t->e + first * t->cols;
    if (t->held != first)
        multiply(&(struct product){.m = n, .n = t->cols, .k = t->cols, .lda = t->cols, .ldb = t->cols, .ldc = t->cols},
                 t->e + first * t->cols, t->f, t->part);
    t->held = first;
    return t->part;
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

/* Eigenvectors v of Tᵀ T, and T v divided by its length. */
static int left_vectors(struct tall *t, int64_t rank, double *u)
{
    int64_t rows = t->rows, cols = t->cols, n;
    double *g = new_matrix(cols, cols), *values = new_matrix(1, cols), *v = new_matrix(rank, cols), trace = 0.0;
    int r = g != NULL && values != NULL && v != NULL ? 0 : -1;
    for (int64_t i = 0; i < rows && r == 0; i += t->step) {
        n = rows - i < t->step ? rows - i : t->step;
        const double *part = rows_of(t, i, n);
        multiply(
            &(struct product){
                .ta = true, .m = cols, .n = cols, .k = n, .lda = cols, .ldb = cols, .ldc = cols, .beta = i > 0},
            part, part, g);
    }
    if (r == 0) {
        trace = trace_of(cols, g);
        r = finite_all(cols * cols, g) ? largest_vectors(cols, rank, g, values, v) : -1;
    }
    for (int64_t i = 0; i < rows && r == 0; i += t->step) {
        n = rows - i < t->step ? rows - i : t->step;
        multiply(&(struct product){.tb = true, .m = rank, .n = n, .k = cols, .lda = cols, .ldb = cols, .ldc = rows}, v,
                 rows_of(t, i, n), u + i);
    }
    for (int64_t i = 0; i < rank && r == 0; i++)
        normalize(rows, !(values[i] > QP_LOW_RANK_NOTHING * trace), u + i * rows);
    free(g);
    free(values);
    free(v);
    return r;
}

/* Few columns: with F Fᵀ = H. */
static int from_columns(int64_t rows, int64_t cols, int64_t rank, const double *e, const float *h, double *u)
{
    struct tall t = {.rows = rows, .cols = cols, .step = part_rows(rows, cols), .e = e, .held = -1};
    double *f = h ? new_matrix(cols, cols) : NULL;
    t.part = h ? new_matrix(t.step, cols) : NULL;
    t.f = f;
    int r = h && (f == NULL || t.part == NULL) ? -1 : 0;
    if (r == 0 && h)
        r = factor(cols, h, f);
    if (r == 0)
        r = left_vectors(&t, rank, u);
    free(f);
    free(t.part);
    return r;
}

/* Of e[rows, cols], which `wide` has: u[rank, rows] and its product with that. */
static int approximate(int64_t rows, int64_t cols, int64_t rank, const double *wide, const float *h, double *u,
                       double *ue)
{
    int r = rows <= cols ? from_rows(rows, cols, rank, wide, h, u) : from_columns(rows, cols, rank, wide, h, u);
    if (r == 0)
        multiply(&(struct product){.m = rank, .n = cols, .k = rows, .lda = rows, .ldb = cols, .ldc = cols}, u, wide,
                 ue);
    return r;
}

int qp_low_rank_cpu(int64_t rows, int64_t cols, int64_t rank, const float *e, const float *h, float *b, float *a)
{
    if (rank == 0)
        return 0;
    double *wide = new_matrix(rows, cols), *u = new_matrix(rank, rows), *ue = new_matrix(rank, cols);
    int r = wide != NULL && u != NULL && ue != NULL ? 0 : -1;
    if (r == 0) {
        widen(rows * cols, e, wide);
        r = approximate(rows, cols, rank, wide, h, u, ue);
    }
    for (int64_t i = 0; i < rank * cols && r == 0; i++)
        a[i] = (float)ue[i];
    for (int64_t i = 0; i < rank * rows && r == 0; i++)
        b[i % rows * rank + i / rows] = (float)u[i];
    free(wide);
    free(u);
    free(ue);
    return r;
}
