/* Root-mean-square normalisation (Zhang and Sennrich 2019, equation 4). */
#ifndef QUANTPIPE_KERNELS_RMS_NORM_H
#define QUANTPIPE_KERNELS_RMS_NORM_H

#include <stdint.h>

/* y[r, i] = x[r, i] / sqrt(mean_i(x[r, i]^2) + eps) * gain[i] for x[rows, n]; y may be x. Tolerance 1e-6 relative to
 * the largest |y| of the row. */
typedef void qp_rms_norm_fn(int64_t rows, int64_t n, const float *x, const float *gain, float eps, float *y);

/* The same, y rounded to BF16 (half to even). */
typedef void qp_rms_norm_bf16_fn(int64_t rows, int64_t n, const float *x, const float *gain, float eps, uint16_t *y);

qp_rms_norm_fn qp_rms_norm_ref;
qp_rms_norm_bf16_fn qp_rms_norm_bf16_ref;

#endif
