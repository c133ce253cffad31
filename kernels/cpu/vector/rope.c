#include "kernels/cpu/vector/vector.h"

static void rotate_halves(int half, const float *restrict cos, const float *restrict sin, float *restrict x,
                          float *restrict y)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = y[i];
        x[i] = a * cos[i] - b * sin[i];
        y[i] = b * cos[i] + a * sin[i];
    }
}

static void rotate_pairs(int half, const float *restrict cos, const float *restrict sin, float *restrict x)
{
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

void QP_NAME(qp_rope)(const struct qp_rope *r)
{
    int half = r->rotary / 2;

#pragma omp parallel for if (r->tokens * r->heads * r->dim >= QP_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < r->tokens; t++) {
        const float *cos = r->cos + t % r->length * half, *sin = r->sin + t % r->length * half;
        for (int h = 0; h < r->heads; h++) {
            float *head = r->x + t * r->stride + (int64_t)h * r->dim;
            if (r->pairs)
                rotate_pairs(half, cos, sin, head);
            else
                rotate_halves(half, cos, sin, head, head + half);
        }
    }
}
