/* BF16 products of AVX-512: a lane holds two neighbours along the summed dimension, whose products it adds to a float.
 * Where a matrix is summed down its columns, its rows are interleaved first: pair[r][i] = x[2r][i], x[2r + 1][i]. */
#ifndef QUANTPIPE_KERNELS_BF16_H
#define QUANTPIPE_KERNELS_BF16_H

#include "kernels/cpu/vector/vector.h"

qp_hessian_bf16_fn qp_hessian_bf16_pairs, qp_hessian_bf16_tiles;
qp_attention_bf16_fn qp_attention_bf16_pairs;

/* Both elements of each of 16 pairs. */
static inline __m512bh v_pairs(const uint32_t *p)
{
    return (__m512bh)_mm512_loadu_si512(p);
}

/* The same pair in each lane. */
static inline __m512bh v_pair(const uint32_t *p)
{
    return (__m512bh)_mm512_set1_epi32((int)*p);
}

/* 16 vectors of 16 numbers of 32 bits, transposed in place. */
static inline void v_transpose(__m512i v[16])
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

static inline uint32_t pair_of(uint16_t first, uint16_t second)
{
    return first | (uint32_t)second << 16;
}

#endif
