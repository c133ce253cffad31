#include "kernels/rms_norm.h"

#include <math.h>

#include "kernels/codec.h"

static double factor_of(int64_t n, const float *x, float eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return 1 / sqrt(sum / (double)n + eps);
}

void qp_rms_norm_ref(int64_t rows, int64_t n, const float *x, const float *gain, float eps, float *y)
{
    for (int64_t r = 0; r < rows; r++) {
        double factor = factor_of(n, x + r * n, eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = (float)(x[r * n + i] * factor * gain[i]);
    }
}

void qp_rms_norm_bf16_ref(int64_t rows, int64_t n, const float *x, const float *gain, float eps, uint16_t *y)
{
    for (int64_t r = 0; r < rows; r++) {
        double factor = factor_of(n, x + r * n, eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = qp_f32_to_bf16((float)(x[r * n + i] * factor * gain[i]));
    }
}
