#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector/attention_tile.h"
#include "kernels/scratch.h"

/* Keys are packed transposed and values padded first, so that both products are the same small product of a [QUERIES,
 * k] by a [k, n] matrix with n a multiple of LANES. */
typedef float element;
typedef vf operand;
#define load_operand(p) v_load(p)
#define repeat_operand(p) v_set(*(p))
#define multiply_add(sum, x, y) v_fma(x, y, sum)
#include "kernels/cpu/vector/attention_block.h"

/* Sizes that follow from a call: values are padded to whole vectors, sequences to whole tiles of keys. */
struct plan {
    const struct qp_attention *a;
    int64_t padded, key_tiles, query_tiles;
    float *keys, *values; /* [sequence, head, tile] of [dim, KEYS] and [KEYS, padded] */
};

static float *keys_of(const struct plan *p, int64_t head, int64_t tile)
{
    return p->keys + (head * p->key_tiles + tile) * p->a->dim * KEYS;
}

static float *values_of(const struct plan *p, int64_t head, int64_t tile)
{
    return p->values + (head * p->key_tiles + tile) * p->padded * KEYS;
}

/* head counts through all key/value heads of all sequences. */
static void pack(const struct plan *p, int64_t head, int64_t tile)
{
    const struct qp_attention *a = p->a;
    int64_t first = tile * KEYS, count = a->length - first < KEYS ? a->length - first : KEYS;
    int64_t token = head / a->kv_heads * a->length + first, column = head % a->kv_heads * a->dim;
    const float *k = a->k + token * a->k_stride + column, *v = a->v + token * a->v_stride + column;
    float *keys = keys_of(p, head, tile), *values = values_of(p, head, tile);

    memset(values, 0, (size_t)(p->padded * KEYS) * sizeof *values);
    for (int64_t j = 0; j < count; j++)
        memcpy(values + j * p->padded, v + j * a->v_stride, (size_t)a->dim * sizeof *v);
    for (int64_t d = 0; d < a->dim; d++)
        for (int64_t j = 0; j < KEYS; j++)
            keys[d * KEYS + j] = j < count ? k[j * a->k_stride + d] : 0;
}

/* What a thread works with on one tile of queries. */
struct tile {
    struct softmax soft;
    float *q, *out; /* [QUERIES, dim] scaled, [QUERIES, padded] */
};

static void load_queries(const struct qp_attention *a, int64_t count, const float *q, struct tile *t)
{
    start(&t->soft);
    for (int64_t i = 0; i < QUERIES; i++)
        for (int64_t d = 0; d < a->dim; d++)
            t->q[i * a->dim + d] = i < count ? q[i * a->q_stride + d] * a->scale : 0;
}

static void attend(const struct plan *p, int64_t sequence, int64_t head, int64_t tile, struct tile *t)
{
    const struct qp_attention *a = p->a;
    int64_t first = tile * QUERIES, count = a->length - first < QUERIES ? a->length - first : QUERIES;
    int64_t token = sequence * a->length + first, kv = sequence * a->kv_heads + head / (a->heads / a->kv_heads);

    load_queries(a, count, a->q + token * a->q_stride + head * a->dim, t);
    memset(t->out, 0, (size_t)(QUERIES * p->padded) * sizeof *t->out);
    for (int64_t k = first_tile(a, first); k * KEYS < first + count; k++) {
        product(KEYS, a->dim, t->q, a->dim, keys_of(p, kv, k), NULL, t->soft.scores);
        cap_scores(&t->soft, a->cap);
        soften(&t->soft, first + 1 - k * KEYS, a->window);
        product(p->padded, KEYS, t->soft.scores, KEYS, values_of(p, kv, k), t->soft.keep, t->out);
    }
    for (int64_t i = 0; i < count; i++)
        for (int64_t d = 0; d < a->dim; d++)
            a->out[(token + i) * a->out_stride + head * a->dim + d] = t->out[i * p->padded + d] / t->soft.sum[i];
}

static void run(const struct plan *p)
{
    const struct qp_attention *a = p->a;
    struct tile t;

    t.q = qp_scratch((size_t)(QUERIES * (a->dim + p->padded)), sizeof *t.q);
    t.out = t.q == NULL ? NULL : t.q + QUERIES * a->dim;
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

static void attend_part(const struct qp_attention *a)
{
    struct plan p = {.a = a,
                     .padded = (a->dim + LANES - 1) / LANES * LANES,
                     .key_tiles = (a->length + KEYS - 1) / KEYS,
                     .query_tiles = (a->length + QUERIES - 1) / QUERIES};
    int64_t packed = a->sequences * a->kv_heads * p.key_tiles * KEYS;

    p.keys = qp_scratch((size_t)(packed * (a->dim + p.padded)), sizeof *p.keys);
    if (p.keys == NULL)
        return;
    p.values = p.keys + packed * a->dim;
#pragma omp parallel if (a->sequences * a->length * a->heads * a->dim >= QP_PARALLEL_ELEMENTS)
    run(&p);
    free(p.keys);
}

void QP_NAME(qp_attention)(const struct qp_attention *a)
{
    int64_t padded = (a->dim + LANES - 1) / LANES * LANES, tiles = (a->length + KEYS - 1) / KEYS;
    struct portion portion = portion_of(a, tiles * KEYS * (a->dim + padded) * (int64_t)sizeof(float));

    for (int64_t sequence = 0; sequence < a->sequences; sequence += portion.sequences)
        for (int head = 0; head < a->kv_heads; head += portion.heads) {
            struct qp_attention part = attention_part(a, portion, sequence, head);
            part.out += sequence * a->length * a->out_stride + (int64_t)head * (a->heads / a->kv_heads) * a->dim;
            attend_part(&part);
        }
}

/* A few sequences at a time: they are held in float32 before they are rounded. */
void QP_NAME(qp_attention_bf16)(const struct qp_attention *a, uint16_t *out)
{
    int64_t width = (int64_t)a->heads * a->dim, bytes = a->length * width * (int64_t)sizeof(float);
    struct portion portion = {bytes > 0 && bytes < QP_ATTENTION_PACKED ? QP_ATTENTION_PACKED / bytes : 1, a->kv_heads};
    int64_t most = portion.sequences < a->sequences ? portion.sequences : a->sequences;
    float *wide = qp_scratch((size_t)(most * a->length * width), sizeof *wide);

    for (int64_t sequence = 0; sequence < a->sequences && wide != NULL; sequence += portion.sequences) {
        struct qp_attention part = attention_part(a, portion, sequence, 0);
        part.out = wide;
        part.out_stride = width;
        QP_NAME(qp_attention)(&part);
        QP_NAME(qp_from_f32)(QP_BF16, part.sequences * a->length * width, wide, out + sequence * a->length * width);
    }
    free(wide);
}
