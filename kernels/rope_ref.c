#include "kernels/rope.h"

static void rotate(int half, const float *cos, const float *sin, float *x)
{
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

void qp_rope_ref(int64_t tokens, int64_t length, int heads, int dim, int64_t stride, const float *cos, const float *sin,
                 float *x)
{
    int half = dim / 2;

    for (int64_t t = 0; t < tokens; t++)
        for (int h = 0; h < heads; h++)
            rotate(half, cos + t % length * half, sin + t % length * half, x + t * stride + (int64_t)h * dim);
}
