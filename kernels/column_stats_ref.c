#include "kernels/column_stats.h"

#include <math.h>
#include <stddef.h>

static void update(float x, int64_t i, float *absmax, double *abssum, float *min, float *max)
{
    if (isnan(x))
        return;
    if (absmax != NULL && fabsf(x) > absmax[i])
        absmax[i] = fabsf(x);
    if (abssum != NULL)
        abssum[i] += fabsf(x);
    if (min != NULL && x < min[i])
        min[i] = x;
    if (max != NULL && x > max[i])
        max[i] = x;
}

void qp_column_stats_ref(int64_t rows, int64_t n, const float *x, float *absmax, double *abssum, float *min, float *max)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < n; i++)
            update(x[r * n + i], i, absmax, abssum, min, max);
}
