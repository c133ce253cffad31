/* Attention in BF16, as vector/attention.c has it in float32: queries and weights are rows of pairs, keys are pairs
 * along a head's dimension, values pairs of tokens. Included once by a file that has defined
 *
 * PAIR_STEP: what the number of a head's pairs is a multiple of.
 *
 * product(n, k, a, lda, b, keep, c): c[QUERIES, n] = keep * c + a b for a[QUERIES, k] and b[k, n] of pairs; keep NULL:
 * c is not read; n is a multiple of LANES, k one of PAIR_STEP or KEYS / 2.
 *
 * products_begin(), products_end(): what a thread does before its first product and after its last. */
#ifndef QUANTPIPE_KERNELS_CPU_ATTENTION_PAIRS_H
#define QUANTPIPE_KERNELS_CPU_ATTENTION_PAIRS_H

#include "kernels/cpu/bf16/bf16.h"
#include "kernels/cpu/vector/attention_tile.h"
#include "kernels/scratch.h"

/* Pairs of a head's dimensions, with those that are zeros. */
static int64_t pairs_of(int dim)
{
    return ((dim + 1) / 2 + PAIR_STEP - 1) / PAIR_STEP * PAIR_STEP;
}

/* Sizes that follow from a call: heads in pairs, values padded to whole vectors, sequences to whole tiles of keys. */
struct plan {
    const struct qp_attention *a;
    uint16_t *out;
    int64_t out_stride; /* numbers between rows of out */
    int64_t pairs, padded, key_tiles, query_tiles;
    uint32_t *keys, *values; /* [sequence, head, tile] of [pairs, KEYS] and [KEYS / 2, padded] */
};

static uint32_t *keys_of(const struct plan *p, int64_t head, int64_t tile)
{
    return p->keys + (head * p->key_tiles + tile) * p->pairs * KEYS;
}

static uint32_t *values_of(const struct plan *p, int64_t head, int64_t tile)
{
    return p->values + (head * p->key_tiles + tile) * p->padded * KEYS / 2;
}

/* Pairs d to d + 15 of a row of `dim` floats, scaled; dimensions too many are 0. */
static inline __m512i row_pairs(const float *x, int64_t d, int dim, float scale)
{
    int64_t left = dim - 2 * d;
    vf low = v_load_part(x + 2 * d, left < LANES ? left : LANES, 0), high = v_set(0);

    if (left > LANES)
        high = v_load_part(x + 2 * d + LANES, left - LANES < LANES ? left - LANES : LANES, 0);
    return (__m512i)_mm512_cvtne2ps_pbh(high * v_set(scale), low * v_set(scale));
}

/* The first n of 16 pairs. */
static inline void store_pairs(uint32_t *to, int64_t n, __m512i pairs)
{
    _mm512_mask_storeu_epi32(to, n < LANES ? (__mmask16)((1u << n) - 1) : (__mmask16)0xffff, pairs);
}

static void pack_keys(const struct plan *p, int64_t count, const float *k, uint32_t *keys)
{
    __m512i v[LANES];

    for (int64_t d = 0; d < p->pairs; d += LANES)
        for (int64_t j = 0; j < KEYS; j += LANES) {
            for (int64_t i = 0; i < LANES; i++)
                v[i] =
                    j + i < count ? row_pairs(k + (j + i) * p->a->k_stride, d, p->a->dim, 1) : _mm512_setzero_si512();
            v_transpose_integers(v);
            for (int64_t i = 0; i < LANES && d + i < p->pairs; i++)
                _mm512_storeu_si512(keys + (d + i) * KEYS + j, v[i]);
        }
}

/* 16 numbers of a row of values, of which `left` are there, in the low halves of integers. */
static inline __m512i value_halves(const float *v, int64_t left)
{
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v_load_part(v, left < LANES ? left : LANES, 0)));
}

static void pack_values(const struct plan *p, int64_t count, const float *v, uint32_t *values)
{
    for (int64_t j = 0; j < KEYS; j += 2, v += 2 * p->a->v_stride)
        for (int64_t d = 0; d < p->padded; d += LANES) {
            __m512i first = _mm512_setzero_si512(), second = first;
            if (j < count)
                first = value_halves(v + d, p->a->dim - d);
            if (j + 1 < count)
                second = value_halves(v + p->a->v_stride + d, p->a->dim - d);
            _mm512_storeu_si512(values + j / 2 * p->padded + d, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
        }
}

/* head counts through all key/value heads of all sequences. */
static void pack(const struct plan *p, int64_t head, int64_t tile)
{
    const struct qp_attention *a = p->a;
    int64_t first = tile * KEYS, count = a->length - first < KEYS ? a->length - first : KEYS;
    int64_t token = head / a->kv_heads * a->length + first, column = head % a->kv_heads * a->dim;

    pack_keys(p, count, a->k + token * a->k_stride + column, keys_of(p, head, tile));
    pack_values(p, count, a->v + token * a->v_stride + column, values_of(p, head, tile));
}

/* What a thread works with on one tile of queries. */
struct tile {
    struct softmax soft;
    uint32_t weights[QUERIES * KEYS / 2]; /* the scores in BF16 */
    uint32_t *q;                          /* [QUERIES, pairs], scaled */
    float *out;                           /* [QUERIES, padded] */
};

static void load_queries(const struct plan *p, int64_t count, const float *q, struct tile *t)
{
    start(&t->soft);
    for (int64_t i = 0; i < QUERIES; i++)
        for (int64_t d = 0; d < p->pairs; d += LANES)
            store_pairs(t->q + i * p->pairs + d, p->pairs - d,
                        i < count ? row_pairs(q + i * p->a->q_stride, d, p->a->dim, p->a->scale)
                                  : _mm512_setzero_si512());
}

static void round_weights(struct tile *t)
{
    for (int i = 0; i < QUERIES * KEYS; i += 2 * LANES) {
        const float *low = t->soft.scores + i;
        _mm512_storeu_si512(t->weights + i / 2, (__m512i)_mm512_cvtne2ps_pbh(v_load(low + LANES), v_load(low)));
    }
}

static void attend(const struct plan *p, int64_t sequence, int64_t head, int64_t tile, struct tile *t)
{
    const struct qp_attention *a = p->a;
    int64_t first = tile * QUERIES, count = a->length - first < QUERIES ? a->length - first : QUERIES;
    int64_t token = sequence * a->length + first, kv = sequence * a->kv_heads + head / (a->heads / a->kv_heads);

    load_queries(p, count, a->q + token * a->q_stride + head * a->dim, t);
    memset(t->out, 0, (size_t)(QUERIES * p->padded) * sizeof *t->out);
    for (int64_t k = first_tile(a, first); k * KEYS < first + count; k++) {
        product(KEYS, p->pairs, t->q, p->pairs, keys_of(p, kv, k), NULL, t->soft.scores);
        cap_scores(&t->soft, a->cap);
        soften(&t->soft, first + 1 - k * KEYS, a->window);
        round_weights(t);
        product(p->padded, KEYS / 2, t->weights, KEYS / 2, values_of(p, kv, k), t->soft.keep, t->out);
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < a->dim; d += LANES)
            v_store_bf16(p->out + (token + i) * p->out_stride + head * a->dim + d,
                         a->dim - d < LANES ? a->dim - d : LANES,
                         v_load(t->out + i * p->padded + d) / v_set(t->soft.sum[i]));
}

static void run(const struct plan *p)
{
    const struct qp_attention *a = p->a;
    struct tile t;

    products_begin();
    t.q = qp_scratch_borrow((size_t)(QUERIES * (p->pairs + p->padded)), sizeof *t.q);
    t.out = t.q == NULL ? NULL : (float *)(t.q + QUERIES * p->pairs);
#pragma omp for collapse(2)
    for (int64_t head = 0; head < a->sequences * a->kv_heads; head++)
        for (int64_t tile = 0; tile < p->key_tiles; tile++)
            pack(p, head, tile);
            /* The tiles with the most keys come first, so that no thread is left with a long one at the end. */
#pragma omp for collapse(3) schedule(dynamic)
    for (int64_t tile = p->query_tiles - 1; tile >= 0; tile--)
        for (int64_t sequence = 0; sequence < a->sequences; sequence++)
            for (int64_t head = 0; head < a->heads; head++)
                if (t.q != NULL)
                    attend(p, sequence, head, tile, &t);
    qp_scratch_return(t.q);
    products_end();
}

static void attend_part(const struct qp_attention *a, uint16_t *out, int64_t out_stride)
{
    struct plan p = {.a = a,
                     .out = out,
                     .out_stride = out_stride,
                     .pairs = pairs_of(a->dim),
                     .padded = (a->dim + LANES - 1) / LANES * LANES,
                     .key_tiles = (a->length + KEYS - 1) / KEYS,
                     .query_tiles = (a->length + QUERIES - 1) / QUERIES};
    int64_t packed = a->sequences * a->kv_heads * p.key_tiles * KEYS;

    p.keys = qp_scratch_borrow((size_t)(packed * (p.pairs + p.padded / 2)), sizeof *p.keys);
    if (p.keys == NULL)
        return;
    p.values = p.keys + packed * p.pairs;
#pragma omp parallel if (a->sequences * a->length * a->heads * a->dim >= QP_PARALLEL_ELEMENTS)
    run(&p);
    qp_scratch_return(p.keys);
}

static void attend_all(const struct qp_attention *a, uint16_t *out)
{
    int64_t pairs = pairs_of(a->dim), padded = (a->dim + LANES - 1) / LANES * LANES;
    int64_t tiles = (a->length + KEYS - 1) / KEYS, width = (int64_t)a->heads * a->dim;
    struct portion portion = portion_of(a, tiles * KEYS * (pairs + padded / 2) * (int64_t)sizeof(uint32_t));

    for (int64_t sequence = 0; sequence < a->sequences; sequence += portion.sequences)
        for (int head = 0; head < a->kv_heads; head += portion.heads) {
            struct qp_attention part = attention_part(a, portion, sequence, head);
            attend_part(&part, out + sequence * a->length * width + (int64_t)head * (a->heads / a->kv_heads) * a->dim,
                        width);
        }
}

#endif
