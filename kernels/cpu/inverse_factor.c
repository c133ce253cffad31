#include "kernels/cpu/cpu.h"

#include <lapacke.h>

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
static lapack_int first_bad_pivot(int64_t n, const float *h)
{
    for (int64_t i = 0; i < n; i++)
        if (!(h[i * n + i] > 0))
            return (lapack_int)(i + 1);
    return 0;
}

/* With J the reversal and J h J = L Lᵀ: h = (J L J)(J L J)ᵀ, where R = J L J is upper triangular, so U = R⁻¹ = J L⁻¹ J.
 * That is one factorisation and one triangular inverse, half the work of inverting h and factoring the inverse.
 * Row-major lower triangles are what LAPACK, which thinks in columns, calls upper ones. */
int64_t qp_inverse_factor_cpu(int64_t n, float *h)
{
    lapack_int order = (lapack_int)n, failed;

    if (n == 0)
        return 0;
    reverse(n, h);
    failed = LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', order, h, order);
    if (failed == 0)
        failed = first_bad_pivot(n, h);
    if (failed == 0)
        failed = LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'U', 'N', order, h, order);
    reverse(n, h);
#pragma omp parallel for if (n * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 1; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            h[i * n + j] = 0;
    return failed;
}
