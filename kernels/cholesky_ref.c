#include "kernels/cholesky.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/scratch.h"

/* From the last row up. */
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

int64_t qp_factor_ref(int64_t n, float *h)
{
    double *r = qp_scratch((size_t)(n * n), sizeof *r);
    int64_t failed = r == NULL ? -1 : factor(n, h, r);

    for (int64_t i = 0; failed == 0 && i < n * n; i++)
        h[i] = i / n <= i % n ? (float)r[i] : 0;
    free(r);
    return failed;
}
