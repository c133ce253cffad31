/* Matrix product. */
#ifndef QUANTPIPE_KERNELS_GEMM_H
#define QUANTPIPE_KERNELS_GEMM_H

#include <stdbool.h>
#include <stdint.h>

/* C[m, n] = alpha * op(A) op(B) + beta * C in float32, op(A) is [m, k], op(B) is [k, n]; ta, tb: transposed in memory.
 * ld*: elements between rows in memory. beta = 0 does not read C. Tolerance: float32 accumulation of k products in any
 * order. Any of m, n, k may be 0. The linear layer y = x Wᵀ is gemm(false, true, tokens, out, in, ...). */
typedef void qp_gemm_fn(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda,
                        const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* The linear layer of BF16 numbers: y[m, n] = x wᵀ, or y += that, for BF16 x[m, k] and w[n, k], as checkpoints store
 * it, without gaps. Products are exact, sums are float32 in any order; subnormal numbers may count as 0. Any of m, n, k
 * may be 0. A row of y follows from its row of x and from w, whatever rows are computed with it, if there are 64 of
 * them. */
typedef void qp_linear_bf16_fn(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add,
                               float *y);

qp_gemm_fn qp_gemm_ref;
qp_linear_bf16_fn qp_linear_bf16_ref;

#endif
