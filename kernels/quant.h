/* The number format of a quantized tensor, shared by the quantization kernels and everybody above them. */
#ifndef QUANTPIPE_KERNELS_QUANT_H
#define QUANTPIPE_KERNELS_QUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/dtype.h"

/* How the exponent of an E8M0 scale follows from the largest magnitude `amax` of its block, with `qmax` the largest
 * element and emax the exponent of qmax (8 for E4M3, 2 for E2M1, 0 for integers in 1/64ths):
 *   floor: floor(log2 amax) - emax                  OCP MX v1.0; clips amax by up to 25 %
 *   ceil:  ceil(log2(amax / qmax))                  modelopt, Transformer Engine; never clips
 *   even:  floor(log2 of amax rounded to the element's mantissa bits, of E4M3 to 1 bit) - emax     llm-compressor
 * The exponent is held in -127 to 127; a block of zeros gets -127. */
enum qp_scale_rule { QP_SCALE_FLOOR, QP_SCALE_CEIL, QP_SCALE_EVEN };

/* Codes are one byte an element: two's complement integers of `bits` bits, or the bit patterns of small floats, in the
 * low bits of the byte.
 * Integers:  code = rint(clamp(x / scale + zero, qmin, qmax)),  value = (code - zero) * scale,  half to even.
 * Floats:    code = encode(clamp(x / scale, +-max)),            value = decode(code) * scale,   half to even.
 * Scales as they are computed with are float32 values that scale_dtype can hold:
 *   F32, F16, BF16   rounded to it
 *   F8_E4M3          E4M3(scale * global) / global: NVFP4's two levels; the code is at least 2^-9, so never 0
 *   F8_E8M0          a power of two, by `rule`; MXINT8's elements are 64ths, its scale here is 2^exponent / 64 */
struct qp_number_format {
    enum qp_dtype codes;       /* QP_I8 (integers), QP_F8_E4M3, QP_F8_E5M2, QP_F6_E2M3, QP_F6_E3M2 or QP_F4_E2M1 */
    int bits;                  /* 2 to 8 for integers, else those of the format */
    bool symmetric;            /* zero is 0 everywhere; floats are always symmetric */
    bool narrow;               /* symmetric integers: scale = absmax / qmax (7, 127), not absmax / (qmax + 1/2) */
    enum qp_dtype scale_dtype; /* F32, F16, BF16, F8_E4M3 or, of symmetric number formats, F8_E8M0 */
    enum qp_scale_rule rule;   /* of E8M0 */
    float global;              /* of E4M3 scales, more than 0: 448 * 6 / absmax of the matrix, say; 0 elsewhere */
};

/* Where scales change in a [rows, cols] matrix: every `group` columns (the last group may be short), and every row,
 * or one scale for all (group = 0). group = cols is "per channel" for weights and "per token" for activations.
 * Scales are [rows, qp_groups(cols, group)], or one. Two-dimensional blocks (FP8's 128x128) have the same scales in
 * each of their rows. */
static inline int64_t qp_groups(int64_t cols, int64_t group)
{
    return group == 0 ? 1 : (cols + group - 1) / group;
}

static inline int64_t qp_scale_count(int64_t rows, int64_t cols, int64_t group)
{
    return group == 0 ? 1 : rows * qp_groups(cols, group);
}

/* Smallest and largest code; for floats minus and plus the largest finite value. */
static inline float qp_format_max(const struct qp_number_format *format)
{
    switch ((int)format->codes) {
    case QP_F8_E4M3:
        return 448;
    case QP_F8_E5M2:
        return 57344;
    case QP_F6_E2M3:
        return 7.5f;
    case QP_F6_E3M2:
        return 28;
    case QP_F4_E2M1:
        return 6;
    default:
        return (float)((1 << (format->bits - 1)) - 1);
    }
}

static inline float qp_format_min(const struct qp_number_format *format)
{
    return format->codes == QP_I8 ? (float)-(1 << (format->bits - 1)) : -qp_format_max(format);
}

/* How many steps of the number format make the 1 that an E8M0 scale multiplies: 64 for MXINT8, else 1. */
float qp_format_unit(const struct qp_number_format *format);

/* The number that a scale's tensor holds, before it is rounded to scale_dtype, which then is exact or takes the last
 * place of float32 away: scale * global for E4M3, scale * 64 for MXINT8, else the scale itself. */
float qp_scale_stored(const struct qp_number_format *format, float scale);

/* The dtype of a tensor that holds one code a byte: I8, F8_E4M3, F8_E5M2, or U8 for narrower floats. */
enum qp_dtype qp_format_storage(const struct qp_number_format *format);

#endif
