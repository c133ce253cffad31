#include "kernels/attention.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/codec.h"
#include "kernels/scratch.h"

static double dot(int dim, const float *a, const float *b)
{
    double sum = 0;
    for (int i = 0; i < dim; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static double score_of(const struct qp_attention *a, const float *q, const float *k)
{
    double score = a->scale * dot(a->dim, q, k);
    return a->cap > 0 ? a->cap * tanh(score / a->cap) : score;
}

/* One query row against `count` keys; p: scratch for count weights. */
static void attend(const struct qp_attention *a, const float *q, const float *k, const float *v, int64_t count,
                   double *p, float *out)
{
    double max = -INFINITY, sum = 0;

    for (int64_t j = 0; j < count; j++) {
        p[j] = score_of(a, q, k + j * a->k_stride);
        max = p[j] > max ? p[j] : max;
    }
    for (int64_t j = 0; j < count; j++)
        sum += p[j] = exp(p[j] - max);
    for (int d = 0; d < a->dim; d++) {
        double value = 0;
        for (int64_t j = 0; j < count; j++)
            value += p[j] * v[j * a->v_stride + d];
        out[d] = (float)(value / sum);
    }
}

void qp_attention_ref(const struct qp_attention *a)
{
    int share = a->heads / a->kv_heads;
    double *p = qp_scratch((size_t)a->length, sizeof *p);

    for (int64_t t = 0; t < a->sequences * a->length && p != NULL; t++) {
        int64_t first = t - t % a->length;
        if (a->window > 0 && t - first >= a->window)
            first = t + 1 - a->window;
        for (int h = 0; h < a->heads; h++) {
            int64_t q = (int64_t)h * a->dim, kv = (int64_t)(h / share) * a->dim;
            attend(a, a->q + t * a->q_stride + q, a->k + first * a->k_stride + kv, a->v + first * a->v_stride + kv,
                   t - first + 1, p, a->out + t * a->out_stride + q);
        }
    }
    free(p);
}

void qp_attention_bf16_ref(const struct qp_attention *a, uint16_t *out)
{
    int64_t width = (int64_t)a->heads * a->dim, tokens = a->sequences * a->length;
    struct qp_attention wide = *a;

    wide.out = qp_scratch((size_t)(tokens * width), sizeof *wide.out);
    wide.out_stride = width;
    if (wide.out == NULL)
        return;
    qp_attention_ref(&wide);
    for (int64_t i = 0; i < tokens * width; i++)
        out[i] = qp_f32_to_bf16(wide.out[i]);
    free(wide.out);
}
