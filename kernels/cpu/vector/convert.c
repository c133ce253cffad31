#include <string.h>

#include "kernels/codec.h"
#include "kernels/cpu/vector/vector.h"

/* Loops that the compiler vectorises; kernels/codec.h is free of branches for their sake. */
#define LOOP(name, type_in, type_out, expression)                                 \
    static void name(int64_t count, const void *restrict src, void *restrict dst) \
    {                                                                             \
        const type_in *in = src;                                                  \
        type_out *out = dst;                                                      \
        for (int64_t i = 0; i < count; i++)                                       \
            out[i] = (expression);                                                \
    }

LOOP(copy, float, float, in[i])
LOOP(from_f16, uint16_t, float, qp_f16_to_f32(in[i]))
LOOP(from_bf16, uint16_t, float, qp_bf16_to_f32(in[i]))
LOOP(from_f64, double, float, (float)in[i])
LOOP(from_e4m3, uint8_t, float, qp_small_float_decode(qp_e4m3_format, in[i]))
LOOP(from_e5m2, uint8_t, float, qp_small_float_decode(qp_e5m2_format, in[i]))
LOOP(from_e2m3, uint8_t, float, qp_small_float_decode(qp_e2m3_format, in[i]))
LOOP(from_e3m2, uint8_t, float, qp_small_float_decode(qp_e3m2_format, in[i]))
LOOP(from_e2m1, uint8_t, float, qp_small_float_decode(qp_e2m1_format, in[i]))
LOOP(from_e8m0, uint8_t, float, qp_e8m0_to_f32(in[i]))
LOOP(from_i8, int8_t, float, (float)in[i])
LOOP(to_f16, float, uint16_t, qp_f32_to_f16(in[i]))
LOOP(to_bf16, float, uint16_t, qp_f32_to_bf16(in[i]))
LOOP(to_e4m3, float, uint8_t, (uint8_t)qp_small_float_encode(qp_e4m3_format, in[i]))
LOOP(to_e5m2, float, uint8_t, (uint8_t)qp_small_float_encode(qp_e5m2_format, in[i]))
LOOP(to_e2m3, float, uint8_t, (uint8_t)qp_small_float_encode(qp_e2m3_format, in[i]))
LOOP(to_e3m2, float, uint8_t, (uint8_t)qp_small_float_encode(qp_e3m2_format, in[i]))
LOOP(to_e2m1, float, uint8_t, (uint8_t)qp_small_float_encode(qp_e2m1_format, in[i]))
LOOP(to_e8m0, float, uint8_t, qp_f32_to_e8m0(in[i]))

typedef void loop_fn(int64_t count, const void *src, void *dst);

static void in_pieces(loop_fn *loop, int64_t count, const void *src, int64_t size_in, void *dst, int64_t size_out)
{
    const int64_t piece = QP_PARALLEL_ELEMENTS;

#pragma omp parallel for if (count > piece)
    for (int64_t i = 0; i < count; i += piece)
        loop(count - i < piece ? count - i : piece, (const char *)src + i * size_in, (char *)dst + i * size_out);
}

void QP_NAME(qp_to_f32)(enum qp_dtype dtype, int64_t count, const void *src, void *dst)
{
    static const struct {
        loop_fn *loop;
        int size;
    } from[QP_DTYPE_COUNT] = {
        [QP_F32] = {copy, 4},          [QP_F16] = {from_f16, 2},      [QP_BF16] = {from_bf16, 2},
        [QP_F64] = {from_f64, 8},      [QP_I8] = {from_i8, 1},        [QP_F8_E4M3] = {from_e4m3, 1},
        [QP_F8_E5M2] = {from_e5m2, 1}, [QP_F6_E2M3] = {from_e2m3, 1}, [QP_F6_E3M2] = {from_e3m2, 1},
        [QP_F4_E2M1] = {from_e2m1, 1}, [QP_F8_E8M0] = {from_e8m0, 1},
    };
    in_pieces(from[dtype].loop, count, src, from[dtype].size, dst, sizeof(float));
}

void QP_NAME(qp_from_f32)(enum qp_dtype dtype, int64_t count, const void *src, void *dst)
{
    static const struct {
        loop_fn *loop;
        int size;
    } to[QP_DTYPE_COUNT] = {
        [QP_F32] = {copy, 4},        [QP_F16] = {to_f16, 2},      [QP_BF16] = {to_bf16, 2},
        [QP_F8_E4M3] = {to_e4m3, 1}, [QP_F8_E5M2] = {to_e5m2, 1}, [QP_F6_E2M3] = {to_e2m3, 1},
        [QP_F6_E3M2] = {to_e3m2, 1}, [QP_F4_E2M1] = {to_e2m1, 1}, [QP_F8_E8M0] = {to_e8m0, 1},
    };
    in_pieces(to[dtype].loop, count, src, sizeof(float), dst, to[dtype].size);
}
