#include "kernels/split.h"

#include "kernels/codec.h"

void qp_split_ref(int64_t count, const float *x, uint16_t *high, uint16_t *low)
{
    for (int64_t i = 0; i < count; i++) {
        high[i] = qp_f32_to_bf16(x[i]);
        low[i] = qp_f32_to_bf16(x[i] - qp_bf16_to_f32(high[i]));
    }
}

void qp_linear_split_ref(const struct qp_linear_split *l)
{
    for (int64_t i = 0; i < l->m; i++)
        for (int64_t j = 0; j < l->n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < l->k; p++) {
                double x = qp_bf16_to_f32(l->x_high[i * l->x_stride + p]);
                double w = qp_bf16_to_f32(l->w_high[j * l->w_stride + p]);
                sum += x * w + x * qp_bf16_to_f32(l->w_low[j * l->w_stride + p]) +
                       w * qp_bf16_to_f32(l->x_low[i * l->x_stride + p]);
            }
            l->y[i * l->y_stride + j] += (float)sum;
        }
}
