#include "kernels/rope.h"

/* The i-th pair is x[i * step], x[i * step + apart]. */
static void rotate_head(int half, int step, int apart, const float *cos, const float *sin, float *x)
{
    for (int i = 0; i < half; i++) {
        float *a = x + i * step, *b = a + apart, before = *a;
        *a = before * cos[i] - *b * sin[i];
        *b = *b * cos[i] + before * sin[i];
    }
}

void qp_rope_ref(const struct qp_rope *r)
{
    int half = r->rotary / 2;

    for (int64_t t = 0; t < r->tokens; t++)
        for (int h = 0; h < r->heads; h++)
            rotate_head(half, r->pairs ? 2 : 1, r->pairs ? 1 : half, r->cos + t % r->length * half,
                        r->sin + t % r->length * half, r->x + t * r->stride + (int64_t)h * r->dim);
}
