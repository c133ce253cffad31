/* The column loop of GPTQ inside one block of columns. */
#ifndef QUANTPIPE_KERNELS_GPTQ_H
#define QUANTPIPE_KERNELS_GPTQ_H

#include "kernels/quant.h"

/* Quantizes columns [0, count) of a block in order, each on top of what those before it left to make up for. GPTQ
 * (Frantar et al. 2023, algorithm 1, inner loop) takes the errors off the weights by rows of U, the factor of H⁻¹; with
 * R = U⁻¹, H = R Rᵀ, the same numbers follow from sums over the deviations so far, without an inverse (Babai's nearest
 * plane: Chen et al. 2025). For each row and column i:
 *   v = w[i] + s[i] / r[i, i];  code = quantize(v; scale and zero of group_of[i]);  q = dequantize(code);
 *   error[i] = (v - q) r[i, i];  s[i] = d = w[i] - q;  s[j] += d r[i, j] for i < j < count.
 * So s holds Σ_k<i d_k r[k, i] of all columns before the block on entry, and the deviations of its own on return;
 * error = d R, of which the sum of squares is the loss d H dᵀ. w: [rows, count], w_stride apart; s, codes and error
 * (NULL: not wanted) likewise; r: upper triangular block, r_stride apart; scale, zero (NULL when symmetric): [rows,
 * groups]; group_of[count]: index into a row's scales. Each row is independent of the others. A NaN is
 * encoded as a positive one. Exact on every backend (no fused multiply-add). */
struct qp_gptq_block {
    const struct qp_number_format *format;
    int64_t rows, count, groups;
    const float *w;
    int64_t w_stride;
    float *s;
    int64_t s_stride;
    const float *r;
    int64_t r_stride;
    const float *scale;
    const int8_t *zero;
    const int32_t *group_of;
    uint8_t *codes;
    int64_t codes_stride;
    float *error;
    int64_t error_stride;
};
typedef void qp_gptq_block_fn(const struct qp_gptq_block *b);

qp_gptq_block_fn qp_gptq_block_ref;

#endif
