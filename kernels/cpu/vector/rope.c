#include "kernels/cpu/vector/vector.h"

static void rotate(int half, const float *restrict cos, const float *restrict sin, float *restrict x, float *restrict y)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = y[i];
        x[i] = a * cos[i] - b * sin[i];
        y[i] = b * cos[i] + a * sin[i];
    }
}

void QP_NAME(qp_rope)(int64_t tokens, int64_t length, int heads, int dim, int64_t stride, const float *cos,
                      const float *sin, float *x)
{
    int half = dim / 2;

#pragma omp parallel for if (tokens * heads * dim >= QP_PARALLEL_ELEMENTS)
    for (int64_t t = 0; t < tokens; t++) {
        int64_t row = t % length * half;
        for (int h = 0; h < heads; h++) {
            float *head = x + t * stride + (int64_t)h * dim;
            rotate(half, cos + row, sin + row, head, head + half);
        }
    }
}
