#include "kernels/gemm.h"

#include "kernels/codec.h"

void qp_gemm_ref(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                 const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (double)(ta ? a[l * lda + i] : a[i * lda + l]) * (tb ? b[j * ldb + l] : b[l * ldb + j]);
            double kept = beta == 0 ? 0 : (double)beta * c[i * ldc + j];
            c[i * ldc + j] = (float)(alpha * sum + kept);
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
