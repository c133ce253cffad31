#include "kernels/convert.h"

#include "kernels/rounding.h"

#define EACH(type_in, type_out, expression) \
    do {                                    \
        const type_in *in = src;            \
        type_out *out = dst;                \
        for (int64_t i = 0; i < count; i++) \
            out[i] = (expression);          \
    } while (0)

void qp_to_f32_ref(enum qp_dtype dtype, int64_t count, const void *src, void *dst)
{
    switch ((int)dtype) {
    case QP_F32:
        EACH(float, float, in[i]);
        break;
    case QP_F16:
        EACH(uint16_t, float, qp_f16_to_f32(in[i]));
        break;
    case QP_BF16:
        EACH(uint16_t, float, qp_bf16_to_f32(in[i]));
        break;
    case QP_F64:
        EACH(double, float, (float)in[i]);
        break;
    case QP_F8_E8M0:
        EACH(uint8_t, float, qp_e8m0_to_f32(in[i]));
        break;
    case QP_F8_E4M3:
    case QP_F8_E5M2:
    case QP_F6_E2M3:
    case QP_F6_E3M2:
    case QP_F4_E2M1:
        EACH(uint8_t, float, qp_small_float_decode(*qp_code_format(dtype), in[i]));
        break;
    case QP_I8:
        EACH(int8_t, float, (float)in[i]);
        break;
    }
}

void qp_from_f32_ref(enum qp_dtype dtype, int64_t count, const void *src, void *dst)
{
    switch ((int)dtype) {
    case QP_F32:
        EACH(float, float, in[i]);
        break;
    case QP_F16:
        EACH(float, uint16_t, qp_f32_to_f16(in[i]));
        break;
    case QP_BF16:
        EACH(float, uint16_t, qp_f32_to_bf16(in[i]));
        break;
    case QP_F8_E8M0:
        EACH(float, uint8_t, qp_f32_to_e8m0(in[i]));
        break;
    case QP_F8_E4M3:
    case QP_F8_E5M2:
    case QP_F6_E2M3:
    case QP_F6_E3M2:
    case QP_F4_E2M1:
        EACH(float, uint8_t, (uint8_t)qp_small_float_encode(*qp_code_format(dtype), in[i]));
        break;
    }
}
