/* BF16 products of AVX-512: a lane holds two neighbours along the summed dimension, whose products it adds to a float.
 * Where a matrix is summed down its columns, its rows are interleaved first: pair[r][i] = x[2r][i], x[2r + 1][i]. */
#ifndef QUANTPIPE_KERNELS_BF16_H
#define QUANTPIPE_KERNELS_BF16_H

#include "kernels/cpu/vector/vector.h"

qp_hessian_bf16_fn qp_hessian_bf16_pairs;
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

static inline uint32_t pair_of(uint16_t first, uint16_t second)
{
    return first | (uint32_t)second << 16;
}

#endif
