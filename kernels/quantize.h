/* Quantization of matrices: scales from ranges, codes, and back. Number formats and groups: kernels/quant.h. */
#ifndef QUANTPIPE_KERNELS_QUANTIZE_H
#define QUANTPIPE_KERNELS_QUANTIZE_H

#include "kernels/quant.h"

/* Scales and zero points of w[rows, cols] from the range of each group (compressed-tensors' rule, with `narrow`
 * modelopt's):
 *   min = min(w, 0), max = max(w, 0) over the group;
 *   symmetric:  scale = max(-min, max) / ((qmax - qmin) / 2), floats and narrow integers: / qmax;  zero = 0
 *   asymmetric: scale = (max - min) / (qmax - qmin),  zero = rint(clamp(qmin - min / scale, qmin, qmax))
 * scale is rounded to format->scale_dtype first (then zero is computed from the rounded scale); a scale that is 0 after
 * rounding becomes the epsilon of that dtype (BF16 2^-7, F16 2^-10, F32 2^-23). E4M3 and E8M0 scales: kernels/quant.h;
 * they saturate, zeros have the least. zero may be NULL when symmetric. NaN in w is ignored; an infinity makes the
 * scale infinite, where its dtype has that. Exact on every backend. */
typedef void qp_qparams_fn(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group,
                           const float *w, float *scale, int8_t *zero);

/* A matrix [rows, cols] and its scales and zero points, one for each group. */
struct qp_grouped {
    const struct qp_number_format *format;
    int64_t rows, cols, group;
    const float *scale;
    const int8_t *zero; /* may be NULL: 0 */
};

/* codes[rows, cols] of w. Exact on every backend: x / scale is one float32 division, then + zero, then clamp, then
 * round half to even. NaN gives the code of 0 (FP8: NaN; FP6 and FP4: a zero with its sign). */
typedef void qp_quantize_fn(const struct qp_grouped *m, const float *w, uint8_t *codes);

/* w[rows, cols] = (code - zero) * scale, one float32 product. Exact. */
typedef void qp_dequantize_fn(const struct qp_grouped *m, const uint8_t *codes, float *w);

/* In place x = dequantize(quantize(x)) with dynamic ranges of x itself: what an engine does to activations.
 * group = cols: per token. Engines keep dynamic scales in float32 (scale_dtype F32), those of NVFP4 and MX in E4M3 and
 * E8M0. Exact. */
typedef void qp_fake_quantize_fn(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group,
                                 float *x);

qp_qparams_fn qp_qparams_ref;
qp_quantize_fn qp_quantize_ref;
qp_dequantize_fn qp_dequantize_ref;
qp_fake_quantize_fn qp_fake_quantize_ref;

#endif
