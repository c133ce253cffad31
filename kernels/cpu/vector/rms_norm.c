#include <math.h>

#include "kernels/cpu/vector/vector.h"

static double sum_of_squares(int64_t n, const float *x)
{
    vd low = {0}, high = {0};
    double sum = 0;
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        vf v = v_load(x + i);
        low += v_low(v) * v_low(v);
        high += v_high(v) * v_high(v);
    }
    for (; i < n; i++)
        sum += (double)x[i] * x[i];
    return sum + v_sum_double(low + high);
}

static float factor_of(int64_t n, const float *x, float eps)
{
    return (float)(1 / sqrt(sum_of_squares(n, x) / (double)n + eps));
}

void QP_NAME(qp_rms_norm)(int64_t rows, int64_t n, const float *x, const float *gain, float eps, float *y)
{
#pragma omp parallel for if (rows * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        const float *in = x + r * n;
        float *out = y + r * n, factor = factor_of(n, in, eps);
        for (int64_t i = 0; i < n; i++)
            out[i] = in[i] * factor * gain[i];
    }
}

void QP_NAME(qp_rms_norm_bf16)(int64_t rows, int64_t n, const float *x, const float *gain, float eps, uint16_t *y)
{
#pragma omp parallel for if (rows * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        const float *in = x + r * n;
        uint16_t *out = y + r * n;
        float factor = factor_of(n, in, eps);
        for (int64_t i = 0; i < n; i++)
            out[i] = qp_f32_to_bf16(in[i] * factor * gain[i]);
    }
}
