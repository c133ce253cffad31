/* Layer normalisation (Ba, Kiros and Hinton 2016, equation 4). */
#ifndef QUANTPIPE_KERNELS_LAYER_NORM_H
#define QUANTPIPE_KERNELS_LAYER_NORM_H

#include <stdint.h>

/* y[r, i] = (x[r, i] - mean) / sqrt(variance + eps) * gain[i] + bias[i] for x[rows, n], with the mean and the
 * population variance of row r; bias NULL: none. y may be x. Tolerance 1e-6 relative to the largest |y| of the row. */
typedef void qp_layer_norm_fn(int64_t rows, int64_t n, const float *x, const float *gain, const float *bias, float eps,
                              float *y);

/* The same, y rounded to BF16 (half to even). */
typedef void qp_layer_norm_bf16_fn(int64_t rows, int64_t n, const float *x, const float *gain, const float *bias,
                                   float eps, uint16_t *y);

qp_layer_norm_fn qp_layer_norm_ref;
qp_layer_norm_bf16_fn qp_layer_norm_bf16_ref;

#endif
