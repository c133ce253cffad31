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

qp_gemm_fn qp_gemm_ref;

#endif
