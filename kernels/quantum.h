/* What the quantization kernels do to one range and to one number: the contract of kernels/quantize.h, shared by the
 * reference and the fast versions so that they cannot differ. */
#ifndef QUANTPIPE_KERNELS_QUANTUM_H
#define QUANTPIPE_KERNELS_QUANTUM_H

#include <math.h>
#include <stddef.h>

#include "kernels/codec.h"
#include "kernels/quant.h"

/* A scale as it will be stored, widened again; never 0. */
static inline float qp_round_scale(enum qp_dtype dtype, float scale)
{
    float rounded = dtype == QP_BF16  ? qp_bf16_to_f32(qp_f32_to_bf16(scale))
                    : dtype == QP_F16 ? qp_f16_to_f32(qp_f32_to_f16(scale))
                                      : scale;
    float epsilon = dtype == QP_BF16 ? 0x1p-7f : dtype == QP_F16 ? 0x1p-10f : 0x1p-23f;
    return rounded == 0 ? epsilon : rounded;
}

/* Scale and zero point of the range [min, max], min <= 0 <= max. */
static inline void qp_range_params(const struct qp_grid *grid, float min, float max, float *scale, int8_t *zero)
{
    float qmin = qp_grid_min(grid), qmax = qp_grid_max(grid), z = 0;

    if (grid->symmetric) {
        float steps = grid->codes == QP_I8 ? (qmax - qmin) / 2 : qmax;
        *scale = qp_round_scale(grid->scale_dtype, (-min > max ? -min : max) / steps);
    } else {
        *scale = qp_round_scale(grid->scale_dtype, (max - min) / (qmax - qmin));
        z = qmin - min / *scale;
        z = z < qmin ? qmin : z > qmax ? qmax : z;
    }
    if (zero != NULL)
        *zero = isnan(z) ? 0 : (int8_t)rintf(z);
}

static inline int8_t qp_integer_code(float x, float scale, float zero, float qmin, float qmax)
{
    float v = x / scale + zero;
    v = v < qmin ? qmin : v;
    v = v > qmax ? qmax : v;
    v = v != v ? zero : v;
    return (int8_t)rintf(v);
}

static inline uint8_t qp_code(const struct qp_grid *grid, float x, float scale, int8_t zero)
{
    switch ((int)grid->codes) {
    case QP_F8_E4M3:
        return qp_f32_to_e4m3(x / scale);
    case QP_F8_E5M2:
        return qp_f32_to_e5m2(x / scale);
    default:
        return (uint8_t)qp_integer_code(x, scale, zero, qp_grid_min(grid), qp_grid_max(grid));
    }
}

static inline float qp_value(const struct qp_grid *grid, uint8_t code, float scale, int8_t zero)
{
    switch ((int)grid->codes) {
    case QP_F8_E4M3:
        return qp_e4m3_to_f32(code) * scale;
    case QP_F8_E5M2:
        return qp_e5m2_to_f32(code) * scale;
    default:
        return (float)((int8_t)code - zero) * scale;
    }
}

#endif
