/* One vector register of floats, as wide as the instruction set of the file has it. Plain arithmetic is written with
 * operators; what C has no operator for stands here. Loops that the compiler vectorises as well need none of it. */
#ifndef QUANTPIPE_KERNELS_VECTOR_H
#define QUANTPIPE_KERNELS_VECTOR_H

#include <immintrin.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/cpu/cpu.h"

/* QP_NAME(qp_rope) is qp_rope_avx2 or qp_rope_avx512, after the instruction set that the file is compiled for. */
#define QP_JOIN_(name, isa) name##_##isa
#define QP_JOIN(name, isa) QP_JOIN_(name, isa)
#define QP_NAME(name) QP_JOIN(name, QP_ISA)

qp_convert_fn QP_NAME(qp_to_f32), QP_NAME(qp_from_f32);
qp_column_stats_fn QP_NAME(qp_column_stats);
qp_rms_norm_fn QP_NAME(qp_rms_norm);
qp_rms_norm_bf16_fn QP_NAME(qp_rms_norm_bf16);
qp_layer_norm_fn QP_NAME(qp_layer_norm);
qp_layer_norm_bf16_fn QP_NAME(qp_layer_norm_bf16);
qp_multiply_fn QP_NAME(qp_multiply);
qp_add_scaled_fn QP_NAME(qp_add_scaled);
qp_soft_cap_fn QP_NAME(qp_soft_cap);
qp_rope_fn QP_NAME(qp_rope);
qp_attention_fn QP_NAME(qp_attention);
qp_attention_bf16_fn QP_NAME(qp_attention_bf16);
qp_gated_fn QP_NAME(qp_gated);
qp_gated_bf16_fn QP_NAME(qp_gated_bf16);
qp_logits_fn QP_NAME(qp_logits);
qp_qparams_fn QP_NAME(qp_qparams);
qp_quantize_fn QP_NAME(qp_quantize);
qp_dequantize_fn QP_NAME(qp_dequantize);
qp_fake_quantize_fn QP_NAME(qp_fake_quantize);
qp_pack_fn QP_NAME(qp_pack);
qp_unpack_fn QP_NAME(qp_unpack);
qp_rtn_fn QP_NAME(qp_rtn);
qp_gptq_block_fn QP_NAME(qp_gptq_block);
qp_scale_search_fn QP_NAME(qp_scale_search);
qp_descent_fn QP_NAME(qp_descent);
qp_mirror_fn QP_NAME(qp_mirror);

/* min and max take the second operand when one of the two is NaN, and for zeros of either sign. */
#ifdef __AVX512F__

typedef __m512 vf;
#define V_INTEGER __m512i
typedef __m512d vd;
typedef __mmask16 vm;
enum { LANES = 16 };
#define V(name) _mm512_##name

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf v_rint(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vf v_abs(vf x)
{
    return _mm512_abs_ps(x);
}

/* x * 2^n for whole n from -126 to 127. */
static inline vf v_scale(vf x, vf n)
{
    return _mm512_scalef_ps(x, n);
}

static inline vm v_less(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

static inline vf v_select(vm mask, vf yes, vf no)
{
    return _mm512_mask_blend_ps(mask, no, yes);
}

/* x with 0 for NaN. */
static inline vf v_without_nan(vf x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x);
}

static inline unsigned v_equal_bits(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}

/* LANES integers of a byte, with their sign or without. */
static inline vf v_load_int8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}

static inline vf v_load_uint8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p)));
}

static inline vd v_low(vf x)
{
    return _mm512_cvtps_pd(_mm512_castps512_ps256(x));
}

static inline vd v_high(vf x)
{
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
}

/* 16 vectors of 16 numbers of 32 bits, transposed in place. */
static inline void v_transpose_integers(__m512i v[16])
{
    __m512i t[16];

    for (int i = 0; i < 16; i += 2) { /* pairs of rows: 2 x 2 */
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) /* 4 x 4 in each quarter of a register */
        for (int k = 0; k < 2; k++) {
            v[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
            v[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
        }
    for (int i = 0; i < 4; i++) { /* quarters among four rows, twice */
        __m512i a = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88), b = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88),
                d = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
        t[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        v[i] = t[i];
}

/* LANES vectors, transposed in place. */
static inline void v_transpose(vf v[LANES])
{
    __m512i whole[16];
    for (int i = 0; i < 16; i++)
        whole[i] = _mm512_castps_si512(v[i]);
    v_transpose_integers(whole);
    for (int i = 0; i < 16; i++)
        v[i] = _mm512_castsi512_ps(whole[i]);
}

#else

typedef __m256 vf;
#define V_INTEGER __m256i
typedef __m256d vd;
typedef __m256 vm;
enum { LANES = 8 };
#define V(name) _mm256_##name

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf v_rint(vf x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vf v_abs(vf x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

static inline vf v_scale(vf x, vf n)
{
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return x * _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline vm v_less(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

static inline vf v_select(vm mask, vf yes, vf no)
{
    return _mm256_blendv_ps(no, yes, mask);
}

static inline vf v_without_nan(vf x)
{
    return _mm256_and_ps(_mm256_cmp_ps(x, x, _CMP_ORD_Q), x);
}

static inline unsigned v_equal_bits(vf a, vf b)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ));
}

static inline void v_transpose(vf v[LANES])
{
    vf t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int k = 0; k < 2; k++) {
            v[i + 2 * k] = _mm256_shuffle_ps(t[i + k], t[i + k + 2], 0x44);
            v[i + 2 * k + 1] = _mm256_shuffle_ps(t[i + k], t[i + k + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(v[i], v[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++)
        v[i] = t[i];
}

static inline vf v_load_int8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}

static inline vf v_load_uint8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)));
}

static inline vd v_low(vf x)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(x));
}

static inline vd v_high(vf x)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
}

#endif

static inline vf v_load(const float *p)
{
    return V(loadu_ps)(p);
}

static inline void v_store(float *p, vf x)
{
    V(storeu_ps)(p, x);
}

static inline vf v_set(float x)
{
    return V(set1_ps)(x);
}

static inline vf v_min(vf a, vf b)
{
    return V(min_ps)(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return V(max_ps)(a, b);
}

/* a / b to the last bit, for `inverse` 1 / b to the last bit, and numbers such that neither the quotient nor what is
 * left of it leaves the normal numbers, or the quotient is far below 1 and nobody asks how far (Markstein 1990). */
static inline vf v_quotient(vf a, vf b, vf inverse)
{
    vf q = a * inverse;
    q = v_fma(v_fma(-q, b, a), inverse, q);
    return v_fma(v_fma(-q, b, a), inverse, q);
}

/* The first n floats at p, then `rest`; n < LANES. */
static inline vf v_load_part(const float *p, int64_t n, float rest)
{
    float lanes[LANES];
    for (int i = 0; i < LANES; i++)
        lanes[i] = i < n ? p[i] : rest;
    return v_load(lanes);
}

static inline void v_store_part(float *p, int64_t n, vf x)
{
    float lanes[LANES];
    v_store(lanes, x);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}

/* Rounded to BF16; the first n of them, n <= LANES. */
static inline void v_store_bf16(uint16_t *p, int64_t n, vf x)
{
    float lanes[LANES];
    uint16_t rounded[LANES];
    v_store(lanes, x);
    for (int i = 0; i < LANES; i++)
        rounded[i] = qp_f32_to_bf16(lanes[i]);
    memcpy(p, rounded, (size_t)n * sizeof *p);
}

/* Halves the register until one lane is left. */
#ifdef __AVX512F__
#define V_FOLD(operation, x) \
    __m256 eight = _mm256_##operation##_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1))
#else
#define V_FOLD(operation, x) __m256 eight = x
#endif
#define V_REDUCE(name, operation)                                                                           \
    static inline float name(vf x)                                                                          \
    {                                                                                                       \
        V_FOLD(operation, x);                                                                               \
        __m128 four = _mm_##operation##_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1)); \
        __m128 two = _mm_##operation##_ps(four, _mm_movehl_ps(four, four));                                 \
        return _mm_cvtss_f32(_mm_##operation##_ss(two, _mm_movehdup_ps(two)));                              \
    }

V_REDUCE(v_smallest, min)
V_REDUCE(v_largest, max)
V_REDUCE(v_sum, add)

static inline double v_sum_double(vd x)
{
    double lanes[LANES / 2], sum = 0;
    V(storeu_pd)(lanes, x);
    for (int i = 0; i < LANES / 2; i++)
        sum += lanes[i];
    return sum;
}

/* e^x for x <= 0, within 2 units in the last place; 0 below -87.3, where the result would be subnormal. Argument
 * reduction and polynomial of Cephes' expf (Moshier). */
static inline vf v_exp(vf x)
{
    vf n = v_rint(v_max(v_set(-126), x * v_set(1.44269504088896341f)));
    vf r = v_fma(n, v_set(2.12194440e-4f), v_fma(n, v_set(-0.693359375f), x));
    vf p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, r * r, r + v_set(1));
    return v_select(v_less(x, v_set(-87.3f)), v_set(0), v_scale(p, n));
}

/* tanh(x) within 4 units in the last place: near 0 the polynomial of Cephes' tanhf (Moshier), else by e^-2|x|. */
static inline vf v_tanh(vf x)
{
    vf z = x * x, e = v_exp(v_abs(x) * v_set(-2)), far = (v_set(1) - e) / (v_set(1) + e);
    vf p = v_set(-5.70498872745e-3f);
    p = v_fma(p, z, v_set(2.06390887954e-2f));
    p = v_fma(p, z, v_set(-5.37397155531e-2f));
    p = v_fma(p, z, v_set(1.33314422036e-1f));
    p = v_fma(p, z, v_set(-3.33332819422e-1f));
    p = v_fma(p * z, x, x);
    return v_select(v_less(v_abs(x), v_set(0.625f)), p, v_select(v_less(x, v_set(0)), -far, far));
}

#endif
