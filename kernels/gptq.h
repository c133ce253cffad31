/* The column loop of GPTQ inside one block of columns. */
#ifndef QUANTPIPE_KERNELS_GPTQ_H
#define QUANTPIPE_KERNELS_GPTQ_H

#include "kernels/quant.h"

/* Quantizes columns [0, count) of a block in order, spreading each column's error over the later columns of the block
 * (Frantar et al. 2023, algorithm 1, inner loop). For each row and column i:
 *   code = quantize(w[i]; scale and zero of group_of[i]);  e = (w[i] - dequantize(code)) / u[i, i];
 *   w[j] -= e * u[i, j] for i < j < count;  error[i] = e.
 * w: [rows, count] float32, w_stride apart, modified; u: upper triangular block, u_stride apart;
 * scale, zero (NULL when symmetric): [rows, groups]; group_of[count]: index into a row's scales;
 * codes: [rows, count], codes_stride apart; error: [rows, count], dense. Each row is independent of the others.
 * Exact on every backend (no fused multiply-add). */
struct qp_gptq_block {
    const struct qp_number_format *format;
    int64_t rows, count, groups;
    float *w;
    int64_t w_stride;
    const float *u;
    int64_t u_stride;
    const float *scale;
    const int8_t *zero;
    const int32_t *group_of;
    uint8_t *codes;
    int64_t codes_stride;
    float *error;
};
typedef void qp_gptq_block_fn(const struct qp_gptq_block *b);

qp_gptq_block_fn qp_gptq_block_ref;

#endif
