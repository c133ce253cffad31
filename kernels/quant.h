/* The number grid of a quantized tensor, shared by the quantization kernels and everybody above them. */
#ifndef QUANTPIPE_KERNELS_QUANT_H
#define QUANTPIPE_KERNELS_QUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/dtype.h"

/* Codes are one byte an element: two's complement integers of `bits` bits in an int8_t, or FP8 bit patterns.
 * Integers:  code = rint(clamp(x / scale + zero, qmin, qmax)),  value = (code - zero) * scale,  half to even.
 * FP8:       code = encode(clamp(x / scale, +-max)),             value = decode(code) * scale. */
struct qp_grid {
    enum qp_dtype codes;       /* QP_I8 (integers), QP_F8_E4M3 or QP_F8_E5M2 */
    int bits;                  /* 2 to 8; 8 for FP8 */
    bool symmetric;            /* zero is 0 everywhere; FP8 is always symmetric */
    enum qp_dtype scale_dtype; /* F32, F16 or BF16: scales are rounded to it before they are used */
};

/* Where scales change in a [rows, cols] matrix: every `group` columns (the last group may be short), and every row,
 * or one scale for all (group = 0). group = cols is "per channel" for weights and "per token" for activations.
 * Scales are [rows, qp_groups(cols, group)], or one. */
static inline int64_t qp_groups(int64_t cols, int64_t group)
{
    return group == 0 ? 1 : (cols + group - 1) / group;
}

static inline int64_t qp_scale_count(int64_t rows, int64_t cols, int64_t group)
{
    return group == 0 ? 1 : rows * qp_groups(cols, group);
}

/* Smallest and largest code; for FP8 minus and plus the largest finite value. */
float qp_grid_min(const struct qp_grid *grid);
float qp_grid_max(const struct qp_grid *grid);

#endif
