#include "kernels/layer_norm.h"

#include <math.h>

#include "kernels/codec.h"

/* What takes a row's numbers to mean 0 and variance 1. */
struct norm_stats {
    double mean, factor;
};

static struct norm_stats norm_stats_of(int64_t n, const float *x, float eps)
{
    double sum = 0, squares = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    return (struct norm_stats){mean, 1 / sqrt(squares / (double)n + (double)eps)};
}

static float normed_at(int64_t i, const float *x, struct norm_stats m, const float *gain, const float *bias)
{
    return (float)(((double)x[i] - m.mean) * m.factor * (double)gain[i] + (bias == NULL ? 0 : (double)bias[i]));
}

void qp_layer_norm_ref(int64_t rows, int64_t n, const float *x, const float *gain, const float *bias, float eps,
                       float *y)
{
    for (int64_t r = 0; r < rows; r++) {
        struct norm_stats m = norm_stats_of(n, x + r * n, eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = normed_at(i, x + r * n, m, gain, bias);
    }
}

void qp_layer_norm_bf16_ref(int64_t rows, int64_t n, const float *x, const float *gain, const float *bias, float eps,
                            uint16_t *y)
{
    for (int64_t r = 0; r < rows; r++) {
        struct norm_stats m = norm_stats_of(n, x + r * n, eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = qp_f32_to_bf16(normed_at(i, x + r * n, m, gain, bias));
    }
}
