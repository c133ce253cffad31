/* What the quantization kernels do to one range and to one number: the contract of kernels/quantize.h, shared by the
 * reference and the fast versions so that they cannot differ. */
#ifndef QUANTPIPE_KERNELS_ROUNDING_H
#define QUANTPIPE_KERNELS_ROUNDING_H

#include <math.h>
#include <stddef.h>

#include "kernels/codec.h"
#include "kernels/quant.h"

/* The format of codes that are floats. */
static inline const struct qp_small_float *qp_code_format(enum qp_dtype codes)
{
    return codes == QP_F8_E4M3   ? &qp_e4m3_format
           : codes == QP_F8_E5M2 ? &qp_e5m2_format
           : codes == QP_F6_E2M3 ? &qp_e2m3_format
           : codes == QP_F6_E3M2 ? &qp_e3m2_format
                                 : &qp_e2m1_format;
}

/* A scale as it will be stored, widened again; never 0. */
static inline __attribute__((always_inline)) float qp_round_scale(enum qp_dtype dtype, float scale)
{
    float rounded = dtype == QP_BF16  ? qp_bf16_to_f32(qp_f32_to_bf16(scale))
                    : dtype == QP_F16 ? qp_f16_to_f32(qp_f32_to_f16(scale))
                                      : scale;
    float epsilon = dtype == QP_BF16 ? 0x1p-7f : dtype == QP_F16 ? 0x1p-10f : 0x1p-23f;
    return rounded == 0 ? epsilon : rounded;
}

/* The E4M3 code of a block's scale below a global one, 0x01 to 0x7e. */
static inline uint8_t qp_e4m3_scale_code(float scale, float global)
{
    float product = scale * global;
    return product >= 0x1p-9f ? qp_f32_to_e4m3(product) : 1;
}

static inline float qp_e4m3_scale(uint8_t code, float global)
{
    return qp_e4m3_to_f32(code) / global;
}

/* The exponent of the E8M0 scale of a block with largest magnitude amax: kernels/quant.h has the rules. */
static inline int qp_e8m0_exponent(const struct qp_number_format *format, float amax)
{
    int mantissa = format->codes == QP_I8        ? format->bits - 2
                   : format->codes == QP_F8_E4M3 ? 1 /* as E2M1: compressed-tensors' mxfp_utils.py */
                                                 : qp_code_format(format->codes)->mantissa;
    int exponent, largest;
    float fraction = frexpf(amax, &exponent), bound = 1;
    float most = frexpf(qp_format_max(format) / qp_format_unit(format), &largest); /* the largest element */

    if (!(amax > 0))
        return -127;
    if (format->rule == QP_SCALE_CEIL)
        bound = most;
    else if (format->rule == QP_SCALE_EVEN)
        bound = 1 - ldexpf(1, -mantissa - 2); /* halfway from the last number of a binade to the next binade */
    exponent += (format->rule == QP_SCALE_EVEN ? fraction >= bound : fraction > bound) - largest;
    return isinf(amax) || exponent > 127 ? 127 : exponent < -127 ? -127 : exponent;
}

/* The scale of a range whose half, or whose largest magnitude, is `steps` steps of the number format. */
static inline __attribute__((always_inline)) float qp_scale_of_range(const struct qp_number_format *format, float range,
                                                                     float steps)
{
    if (format->scale_dtype == QP_F8_E8M0)
        return ldexpf(1, qp_e8m0_exponent(format, range)) / qp_format_unit(format);
    if (format->scale_dtype == QP_F8_E4M3)
        return qp_e4m3_scale(qp_e4m3_scale_code(range / steps, format->global), format->global);
    return qp_round_scale(format->scale_dtype, range / steps);
}

/* Steps of a symmetric number format from 0 to the largest magnitude of a range. */
static inline __attribute__((always_inline)) float qp_format_steps(const struct qp_number_format *format)
{
    float qmax = qp_format_max(format);
    return format->codes != QP_I8 || format->narrow ? qmax : (qmax - qp_format_min(format)) / 2;
}

/* What of a number format every range is held against. */
struct qp_limits {
    float min, max, steps; /* steps: that a scale divides a range in */
};

static inline __attribute__((always_inline)) struct qp_limits qp_limits_of(const struct qp_number_format *format)
{
    float min = qp_format_min(format), max = qp_format_max(format);
    return (struct qp_limits){min, max, format->symmetric ? qp_format_steps(format) : max - min};
}

/* The zero point of a range that begins at `min`. */
static inline __attribute__((always_inline)) int8_t qp_zero_of_range(struct qp_limits q, float min, float scale)
{
    float z = q.min - min / scale;
    z = z < q.min ? q.min : z > q.max ? q.max : z;
    return isnan(z) ? 0 : (int8_t)rintf(z);
}

/* Scale and zero point of the range [min, max], min <= 0 <= max. */
static inline __attribute__((always_inline)) void qp_range_params(const struct qp_number_format *format, float min,
                                                                  float max, float *scale, int8_t *zero)
{
    struct qp_limits q = qp_limits_of(format);
    float range = !format->symmetric ? max - min : -min > max ? -min : max;

    *scale = qp_scale_of_range(format, range, q.steps);
    if (zero != NULL)
        *zero = format->symmetric ? 0 : qp_zero_of_range(q, min, *scale);
}

/* x, and any NaN as the positive one: which operand's sign it has otherwise depends on the compiler. */
static inline float qp_positive_nan(float x)
{
    return x != x ? NAN : x;
}

static inline int8_t qp_integer_code(float x, float scale, float zero, float qmin, float qmax)
{
    float v = x / scale + zero;
    v = v < qmin ? qmin : v;
    v = v > qmax ? qmax : v;
    v = v != v ? zero : v;
    return (int8_t)rintf(v);
}

static inline uint8_t qp_code(const struct qp_number_format *format, float x, float scale, int8_t zero)
{
    if (format->codes == QP_I8)
        return (uint8_t)qp_integer_code(x, scale, zero, qp_format_min(format), qp_format_max(format));
    return (uint8_t)qp_small_float_encode(*qp_code_format(format->codes), x / scale);
}

static inline float qp_value(const struct qp_number_format *format, uint8_t code, float scale, int8_t zero)
{
    if (format->codes == QP_I8)
        return (float)((int8_t)code - zero) * scale;
    return qp_small_float_decode(*qp_code_format(format->codes), code) * scale;
}

#endif
