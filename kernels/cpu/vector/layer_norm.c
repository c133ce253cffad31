#include <math.h>

#include "kernels/cpu/vector/vector.h"

/* All in float64: a mean far from 0 would take most digits of float32 with it. */
struct norm_stats {
    double mean, factor;
};

static inline vd vd_set(double x)
{
    return V(set1_pd)(x);
}

/* The sum of (x - mean)^power for power 1 or 2. */
static inline double sum_of_powers(int power, int64_t n, const float *x, double mean)
{
    vd low = {0}, high = {0};
    double sum = 0;
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        vd a = v_low(v_load(x + i)) - vd_set(mean), b = v_high(v_load(x + i)) - vd_set(mean);
        low += power == 1 ? a : (vd)(a * a);
        high += power == 1 ? b : (vd)(b * b);
    }
    for (; i < n; i++)
        sum += power == 1 ? (double)x[i] - mean : ((double)x[i] - mean) * ((double)x[i] - mean);
    return sum + v_sum_double(low + high);
}

static struct norm_stats norm_stats_of(int64_t n, const float *x, float eps)
{
    double mean = sum_of_powers(1, n, x, 0) / (double)n;
    return (struct norm_stats){mean, 1 / sqrt(sum_of_powers(2, n, x, mean) / (double)n + (double)eps)};
}

static inline float normed_at(int64_t i, const float *x, struct norm_stats m, const float *gain, const float *bias)
{
    return (float)(((double)x[i] - m.mean) * m.factor * (double)gain[i] + (bias == NULL ? 0 : (double)bias[i]));
}

void QP_NAME(qp_layer_norm)(int64_t rows, int64_t n, const float *x, const float *gain, const float *bias, float eps,
                            float *y)
{
#pragma omp parallel for if (rows * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        struct norm_stats m = norm_stats_of(n, x + r * n, eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = normed_at(i, x + r * n, m, gain, bias);
    }
}

void QP_NAME(qp_layer_norm_bf16)(int64_t rows, int64_t n, const float *x, const float *gain, const float *bias,
                                 float eps, uint16_t *y)
{
#pragma omp parallel for if (rows * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        struct norm_stats m = norm_stats_of(n, x + r * n, eps);
        for (int64_t i = 0; i < n; i++)
            y[r * n + i] = qp_f32_to_bf16(normed_at(i, x + r * n, m, gain, bias));
    }
}
