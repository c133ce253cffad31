#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/bf16/bf16.h"
#include "kernels/cpu/vector/attention_tile.h"
#include "kernels/scratch.h"

/* As vector/attention.c, in BF16: queries and weights are rows of pairs, keys are pairs along a head's dimension,
 * values pairs of tokens. */
typedef uint32_t element;
typedef __m512bh operand;
#define load_operand(p) v_pairs(p)
#define repeat_operand(p) v_pair(p)
#define multiply_add(sum, x, y) _mm512_dpbf16_ps(sum, x, y)
#include "kernels/cpu/vector/attention_block.h"

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

/* Pair d of a head's row; a dimension too many is 0. */
static uint32_t pair_along(const float *x, int64_t d, int dim, float scale)
{
    return pair_of(qp_f32_to_bf16(x[2 * d] * scale), 2 * d + 1 < dim ? qp_f32_to_bf16(x[2 * d + 1] * scale) : 0);
}

static void pack_keys(const struct plan *p, int64_t count, const float *k, uint32_t *keys)
{
    for (int64_t j = 0; j < KEYS; j++)
        for (int64_t d = 0; d < p->pairs; d++)
            keys[d * KEYS + j] = j < count ? pair_along(k + j * p->a->k_stride, d, p->a->dim, 1) : 0;
}

static void pack_values(const struct plan *p, int64_t count, const float *v, uint32_t *values)
{
    memset(values, 0, (size_t)(p->padded * KEYS / 2) * sizeof *values);
    for (int64_t j = 0; j < count; j++) {
        uint32_t *pairs = values + j / 2 * p->padded;
        for (int d = 0; d < p->a->dim; d++)
            pairs[d] |= (uint32_t)qp_f32_to_bf16(v[j * p->a->v_stride + d]) << (j % 2 * 16);
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
        for (int64_t d = 0; d < p->pairs; d++)
            t->q[i * p->pairs + d] = i < count ? pair_along(q + i * p->a->q_stride, d, p->a->dim, p->a->scale) : 0;
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
        for (int64_t d = 0; d < a->dim; d++)
            p->out[(token + i) * p->out_stride + head * a->dim + d] =
                qp_f32_to_bf16(t->out[i * p->padded + d] / t->soft.sum[i]);
}

static void run(const struct plan *p)
{
    const struct qp_attention *a = p->a;
    struct tile t;

    t.q = qp_scratch((size_t)(QUERIES * (p->pairs + p->padded)), sizeof *t.q);
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
    free(t.q);
}

static void attend_part(const struct qp_attention *a, uint16_t *out, int64_t out_stride)
{
    struct plan p = {.a = a,
                     .out = out,
                     .out_stride = out_stride,
                     .pairs = (a->dim + 1) / 2,
                     .padded = (a->dim + LANES - 1) / LANES * LANES,
                     .key_tiles = (a->length + KEYS - 1) / KEYS,
                     .query_tiles = (a->length + QUERIES - 1) / QUERIES};
    int64_t packed = a->sequences * a->kv_heads * p.key_tiles * KEYS;

    p.keys = qp_scratch((size_t)(packed * (p.pairs + p.padded / 2)), sizeof *p.keys);
    if (p.keys == NULL)
        return;
    p.values = p.keys + packed * p.pairs;
#pragma omp parallel if (a->sequences * a->length * a->heads * a->dim >= QP_PARALLEL_ELEMENTS)
    run(&p);
    free(p.keys);
}

void qp_attention_bf16_pairs(const struct qp_attention *a, uint16_t *out)
{
    int64_t pairs = (a->dim + 1) / 2, padded = (a->dim + LANES - 1) / LANES * LANES;
    int64_t tiles = (a->length + KEYS - 1) / KEYS, width = (int64_t)a->heads * a->dim;
    struct portion portion = portion_of(a, tiles * KEYS * (pairs + padded / 2) * (int64_t)sizeof(uint32_t));

    for (int64_t sequence = 0; sequence < a->sequences; sequence += portion.sequences)
        for (int head = 0; head < a->kv_heads; head += portion.heads) {
            struct qp_attention part = attention_part(a, portion, sequence, head);
            attend_part(&part, out + sequence * a->length * width + (int64_t)head * (a->heads / a->kv_heads) * a->dim,
                        width);
        }
}
