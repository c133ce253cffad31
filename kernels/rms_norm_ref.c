#include "kernels/rms_norm.h"

#include <math.h>

void qp_rms_norm_ref(int64_t rows, int64_t n, const float *x, const float *gain, float eps, float *y)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[r * n + i] * x[r * n + i];
        double factor = 1 / sqrt(sum / (double)n + eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = (float)(x[r * n + i] * factor * gain[i]);
    }
}
