/* Small floats by bits: branch-free, so that a compiler can vectorise loops over them. Contract: kernels/convert.h. */
#ifndef QUANTPIPE_KERNELS_CODEC_H
#define QUANTPIPE_KERNELS_CODEC_H

#include <stdint.h>
#include <string.h>

static inline uint32_t qp_float_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float qp_bits_float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* What sets a binary format narrower than float32 apart. */
struct qp_small_float {
    int mantissa;      /* stored bits */
    int bias;          /* of the exponent */
    uint32_t overflow; /* float32 bits of the least |x| that gets the code `largest` */
    uint32_t largest;  /* infinity, or the largest finite value of a format that saturates */
    uint32_t nan;      /* code of NaN without sign */
};

static const struct qp_small_float qp_f16_format = {10, 15, 0x477ff000, 0x7c00, 0x7e00}; /* 65520 -> infinity */
static const struct qp_small_float qp_e4m3_format = {3, 7, 0x43e00000, 0x7e, 0x7f};      /* 448 */
static const struct qp_small_float qp_e5m2_format = {2, 15, 0x47600000, 0x7b, 0x7f};     /* 57344 */

/* The code of |x| (u: float32 bits without sign), half to even. */
static inline uint32_t qp_small_float_encode(const struct qp_small_float f, uint32_t u)
{
    int shift = 23 - f.mantissa;
    uint32_t normal =
        ((u + ((1u << (shift - 1)) - 1) + ((u >> shift) & 1)) >> shift) - ((uint32_t)(127 - f.bias) << f.mantissa);
    /* Below the smallest normal: a float32 sum with the power of two whose last place is the step rounds for us. */
    uint32_t magic = (uint32_t)(127 + 24 - f.bias - f.mantissa) << 23;
    uint32_t subnormal = qp_float_bits(qp_bits_float(u) + qp_bits_float(magic)) - magic;
    uint32_t code = u < (uint32_t)(128 - f.bias) << 23 ? subnormal : normal;

    code = u >= f.overflow ? f.largest : code;
    return u > 0x7f800000 ? f.nan : code;
}

static inline uint16_t qp_f32_to_f16(float x)
{
    uint32_t u = qp_float_bits(x);
    return (uint16_t)(qp_small_float_encode(qp_f16_format, u & 0x7fffffff) | (u >> 16 & 0x8000));
}

static inline uint8_t qp_f32_to_e4m3(float x)
{
    uint32_t u = qp_float_bits(x);
    return (uint8_t)(qp_small_float_encode(qp_e4m3_format, u & 0x7fffffff) | (u >> 24 & 0x80));
}

static inline uint8_t qp_f32_to_e5m2(float x)
{
    uint32_t u = qp_float_bits(x);
    return (uint8_t)(qp_small_float_encode(qp_e5m2_format, u & 0x7fffffff) | (u >> 24 & 0x80));
}

static inline uint16_t qp_f32_to_bf16(float x)
{
    uint32_t u = qp_float_bits(x);
    uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : rounded);
}

static inline float qp_bf16_to_f32(uint16_t h)
{
    return qp_bits_float((uint32_t)h << 16);
}

static inline float qp_f16_to_f32(uint16_t h)
{
    /* The exponent is rebiased by a product, which is exact and takes care of subnormals. */
    float value = qp_bits_float((h & 0x7fffu) << 13) * 0x1p112f;
    uint32_t special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000 : 0;
    return qp_bits_float(qp_float_bits(value) | special | (h & 0x8000u) << 16);
}

static inline float qp_e5m2_to_f32(uint8_t c)
{
    return qp_f16_to_f32((uint16_t)(c << 8)); /* E5M2 is the upper byte of F16 */
}

static inline float qp_e4m3_to_f32(uint8_t c)
{
    float value = qp_bits_float((c & 0x7fu) << 20) * 0x1p120f;
    uint32_t special = (c & 0x7fu) == 0x7fu ? 0x7fc00000 : 0;
    return qp_bits_float(qp_float_bits(value) | special | (c & 0x80u) << 24);
}

#endif
