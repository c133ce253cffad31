#include "kernels/gemm.h"

#include "kernels/codec.h"

void qp_gemm_ref(const struct qp_gemm *g)
{
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < g->k; l++)
                sum += (double)(g->ta ? g->a[l * g->lda + i] : g->a[i * g->lda + l]) *
                       (g->tb ? g->b[j * g->ldb + l] : g->b[l * g->ldb + j]);
            double kept = g->beta == 0 ? 0 : (double)g->beta * g->c[i * g->ldc + j];
            g->c[i * g->ldc + j] = (float)(g->alpha * sum + kept);
        }
}

void qp_linear_bf16_ref(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = add ? y[i * n + j] : 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)qp_bf16_to_f32(x[i * k + l]) * qp_bf16_to_f32(w[j * k + l]);
            y[i * n + j] = (float)sum;
        }
}
