#include "kernels/hessian.h"

#include "kernels/codec.h"

void qp_hessian_ref(int64_t rows, int64_t n, const float *x, float *h)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++)
                sum += (double)x[r * n + i] * x[r * n + j];
            h[i * n + j] = (float)(h[i * n + j] + sum);
        }
}

void qp_hessian_bf16_ref(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++) {
            double sum = 0;
            for (int64_t r = 0; r < rows; r++)
                sum += (double)qp_bf16_to_f32(x[r * n + i]) * qp_bf16_to_f32(x[r * n + j]);
            h[i * n + j] = (float)(h[i * n + j] + sum);
        }
}

void qp_mirror_ref(int64_t n, float *h)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++)
            h[i * n + j] = h[j * n + i];
}
