#include "kernels/cpu/cpu.h"

#include <lapacke.h>
#include <omp.h>

/* LAPACK cuts its work by the number of threads, and its sums with it. So it gets blocks of at most ORDER on the
 * calling thread; the rest is products, whose result does not depend on that. */
enum { ORDER = 256 };

/* h[n, n] with its rows and columns in reverse order. */
static void reverse(int64_t n, float *h)
{
    int64_t last = n * n - 1;

#pragma omp parallel for simd if (n * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < n * n / 2; i++) {
        float t = h[i];
        h[i] = h[last - i];
        h[last - i] = t;
    }
}

/* LAPACK takes NaN for a pivot as good as any. */
static lapack_int first_bad_pivot(int64_t n, const float *a, int64_t stride)
{
    for (int64_t i = 0; i < n; i++)
        if (!(a[i * stride + i] > 0))
            return (lapack_int)(i + 1);
    return 0;
}

/* Row-major lower triangles are what LAPACK, which thinks in columns, calls upper ones. */
static int64_t invert_block(int64_t n, float *a, int64_t stride)
{
    int threads = omp_get_max_threads();

    omp_set_num_threads(1);
    lapack_int failed = LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', (lapack_int)n, a, (lapack_int)stride);
    if (failed == 0)
        failed = first_bad_pivot(n, a, stride);
    if (failed == 0)
        failed = LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'U', 'N', (lapack_int)n, a, (lapack_int)stride);
    omp_set_num_threads(threads);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i + 1; j < n; j++)
            a[i * stride + j] = 0;
    return failed;
}

/* Puts the transpose of upper[rows, columns] into lower, and zeros in its own place. */
static void move_transposed(int64_t rows, int64_t columns, float *upper, float *lower, int64_t stride)
{
    const int64_t tile = 32;

#pragma omp parallel for schedule(static) if (rows * columns >= QP_PARALLEL_ELEMENTS)
    for (int64_t top = 0; top < columns; top += tile)
        for (int64_t left = 0; left < rows; left += tile)
            for (int64_t i = top; i < top + tile && i < columns; i++)
                for (int64_t j = left; j < left + tile && j < rows; j++) {
                    lower[i * stride + j] = upper[j * stride + i];
                    upper[j * stride + i] = 0;
                }
}

/* a = L Lᵀ becomes L⁻¹, zeros above the diagonal. With a in four blocks and X for L⁻¹:
 *     L21ᵀ = X11 a21ᵀ,   L22 L22ᵀ = a22 - L21 L21ᵀ,   X21 = -X22 L21 X11.
 * What stands above the diagonal is a workspace for L21ᵀ and then for X21ᵀ. Returns as the contract says. */
static int64_t invert_factor(int64_t n, float *a, int64_t stride)
{
    if (n <= ORDER)
        return invert_block(n, a, stride);
    int64_t m = (n / 2 + 63) / 64 * 64, rest = n - m;
    float *upper = a + m, *lower = a + m * stride, *last = lower + m;
    int64_t failed = invert_factor(m, a, stride);
    if (failed != 0)
        return failed;
    qp_gemm_cpu(false, true, m, rest, m, 1, a, stride, lower, stride, 0, upper, stride);
    qp_gemm_cpu(true, false, rest, rest, m, -1, upper, stride, upper, stride, 1, last, stride);
    failed = invert_factor(rest, last, stride);
    if (failed != 0)
        return m + failed;
    qp_gemm_cpu(true, false, rest, m, m, 1, upper, stride, a, stride, 0, lower, stride);
    qp_gemm_cpu(true, true, m, rest, rest, -1, lower, stride, last, stride, 0, upper, stride);
    move_transposed(m, rest, upper, lower, stride);
    return 0;
}

/* With J the reversal and J h J = L Lᵀ: h = (J L J)(J L J)ᵀ, where R = J L J is upper triangular, so U = R⁻¹ = J L⁻¹ J.
 * That is one factorisation and one triangular inverse, half the work of inverting h and factoring the inverse. */
int64_t qp_inverse_factor_cpu(int64_t n, float *h)
{
    if (n == 0)
        return 0;
    reverse(n, h);
    int64_t failed = invert_factor(n, h, n);
    reverse(n, h);
    return failed;
}
