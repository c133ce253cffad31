/* Matrix product. */
#ifndef QUANTPIPE_KERNELS_GEMM_H
#define QUANTPIPE_KERNELS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

/* C[m, n] = alpha * op(A) op(B) + beta * C in float32, op(A) is [m, k], op(B) is [k, n]. */
struct qp_gemm {
    bool ta, tb; /* transposed in memory */
    int64_t m, n, k;
    float alpha;
    const float *a;
    int64_t lda; /* elements between rows in memory, as ldb and ldc */
    const float *b;
    int64_t ldb;
    float beta; /* 0: C is not read */
    float *c;
    int64_t ldc;
};

/* Tolerance: float32 accumulation of k products in any order. Any of m, n, k may be 0. The linear layer y = x Wᵀ has
 * tb, m tokens, n outputs and k inputs. */
typedef void qp_gemm_fn(const struct qp_gemm *g);

/* The linear layer of BF16 numbers: y[m, n] = x wᵀ, or y += that, for BF16 x[m, k] and w[n, k], as checkpoints store
 * it, without gaps. Products are exact, sums are float32 in any order; subnormal numbers may count as 0. Any of m, n, k
 * may be 0. A row of y follows from its row of x and from w, whatever rows are computed with it, if there are 64 of
 * them. */
typedef void qp_linear_bf16_fn(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add,
                               float *y);

qp_gemm_fn qp_gemm_ref;
qp_linear_bf16_fn qp_linear_bf16_ref;

#endif
