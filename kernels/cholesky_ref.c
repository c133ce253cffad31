#include "kernels/cholesky.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/scratch.h"

/* h = R Rᵀ with R upper triangular, from the last row up; h⁻¹ = R⁻ᵀ R⁻¹, so R⁻¹ is the factor asked for. */
static int64_t factor(int64_t n, const float *h, double *r)
{
    for (int64_t j = n - 1; j >= 0; j--)
        for (int64_t i = j; i >= 0; i--) {
            double sum = h[i * n + j];
            for (int64_t k = j + 1; k < n; k++)
                sum -= r[i * n + k] * r[j * n + k];
            if (i == j && !(sum > 0))
                return n - j;
            r[i * n + j] = i == j ? sqrt(sum) : sum / r[j * n + j];
        }
    return 0;
}

/* Column j of R⁻¹ by substitution, from the diagonal up. */
static void invert_column(int64_t n, int64_t j, const double *r, double *column, float *u)
{
    for (int64_t i = n - 1; i > j; i--)
        u[i * n + j] = 0;
    for (int64_t i = j; i >= 0; i--) {
        double sum = i == j;
        for (int64_t k = i + 1; k <= j; k++)
            sum -= r[i * n + k] * column[k];
        column[i] = sum / r[i * n + i];
        u[i * n + j] = (float)column[i];
    }
}

int64_t qp_inverse_factor_ref(int64_t n, float *h)
{
    double *r = qp_scratch((size_t)(n * n + n), sizeof *r);
    int64_t failed = r == NULL ? -1 : factor(n, h, r);

    for (int64_t j = 0; failed == 0 && j < n; j++)
        invert_column(n, j, r, r + n * n, h);
    free(r);
    return failed;
}
