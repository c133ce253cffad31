/* Small floats by bits: branch-free, so that a compiler can vectorise loops over them. Contract: kernels/convert.h. */
#ifndef QUANTPIPE_KERNELS_CODEC_H
#define QUANTPIPE_KERNELS_CODEC_H

#include <stdbool.h>
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
    int bits;          /* with the sign, which is the topmost */
    int mantissa;      /* stored bits */
    int bias;          /* of the exponent */
    uint32_t overflow; /* float32 bits of the least |x| that gets the code `largest` */
    uint32_t largest;  /* infinity, or the largest finite value of a format that saturates */
    uint32_t finite; /* how many codes of finite numbers there are, without sign; the one after them is infinity ... */
    bool infinite;   /* ... if the format has one; all others are NaN */
    uint32_t nan;    /* code of NaN without sign; 0 in formats that have none */
};

static const struct qp_small_float qp_f16_format = {16, 10, 15, 0x477ff000, 0x7c00, 0x7c00, true, 0x7e00}; /* 65520 */
static const struct qp_small_float qp_e4m3_format = {8, 3, 7, 0x43e00000, 0x7e, 0x7f, false, 0x7f};        /* 448 */
static const struct qp_small_float qp_e5m2_format = {8, 2, 15, 0x47600000, 0x7b, 0x7c, true, 0x7f};        /* 57344 */
static const struct qp_small_float qp_e2m3_format = {6, 3, 1, 0x40f00000, 0x1f, 0x20, false, 0};           /* 7.5 */
static const struct qp_small_float qp_e3m2_format = {6, 2, 3, 0x41e00000, 0x1f, 0x20, false, 0};           /* 28 */
static const struct qp_small_float qp_e2m1_format = {4, 1, 1, 0x40c00000, 0x07, 0x08, false, 0};           /* 6 */

/* The code of |x| (u: float32 bits without sign), half to even. */
static inline uint32_t qp_small_float_magnitude(const struct qp_small_float f, uint32_t u)
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

static inline uint32_t qp_small_float_encode(const struct qp_small_float f, float x)
{
    uint32_t u = qp_float_bits(x);
    return qp_small_float_magnitude(f, u & 0x7fffffff) | u >> 31 << (f.bits - 1);
}

static inline float qp_small_float_decode(const struct qp_small_float f, uint32_t code)
{
    uint32_t sign = code >> (f.bits - 1), magnitude = code & ((1u << (f.bits - 1)) - 1);
    uint32_t normal = (magnitude << (23 - f.mantissa)) + ((uint32_t)(127 - f.bias) << 23);
    /* A subnormal is what is left of the number with the same fraction above the smallest normal. */
    uint32_t least = (uint32_t)(128 - f.bias) << 23;
    uint32_t subnormal = qp_float_bits(qp_bits_float(normal + (1u << 23)) - qp_bits_float(least));
    uint32_t u = magnitude >> f.mantissa == 0 ? subnormal : normal;

    u = magnitude >= f.finite ? 0x7fc00000 : u;
    u = magnitude == f.finite && f.infinite ? 0x7f800000 : u;
    return qp_bits_float(u | sign << 31);
}

static inline uint16_t qp_f32_to_f16(float x)
{
    return (uint16_t)qp_small_float_encode(qp_f16_format, x);
}

static inline uint8_t qp_f32_to_e4m3(float x)
{
    return (uint8_t)qp_small_float_encode(qp_e4m3_format, x);
}

/* The power of two nearest to |x|, from 1.5 times a power on the next; beyond 2^127 that, and NaN 0xff. */
static inline uint8_t qp_f32_to_e8m0(float x)
{
    uint32_t u = qp_float_bits(x) & 0x7fffffff;
    uint32_t code = (u + (u < 0x800000 ? 0x200000 : 0x400000)) >> 23; /* 1.5 * 2^-127 is subnormal */

    code = code > 0xfe ? 0xfe : code;
    return (uint8_t)(u > 0x7f800000 ? 0xff : code);
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

static inline float qp_e4m3_to_f32(uint8_t c)
{
    return qp_small_float_decode(qp_e4m3_format, c);
}

static inline float qp_e8m0_to_f32(uint8_t c)
{
    uint32_t power = c == 0 ? 0x400000 : (uint32_t)c << 23; /* 2^-127 is subnormal */
    return qp_bits_float(c == 0xff ? 0x7fc00000 : power);
}

#endif
