/* The softmax of attention in tiles: a running maximum and sum for each row (FlashAttention, Dao et al. 2022, algorithm
 * 1). */
#ifndef QUANTPIPE_KERNELS_ATTENTION_TILE_H
#define QUANTPIPE_KERNELS_ATTENTION_TILE_H

#include <float.h>
#include <math.h>

#include "kernels/cpu/vector/vector.h"

/* Rows and columns of a tile; the rows are a multiple of LANES. */
enum { QUERIES = 48, KEYS = 64 };

/* As many sequences and key/value heads as are computed at once. */
struct portion {
    int64_t sequences;
    int heads;
};

static inline struct portion portion_of(const struct qp_attention *a, int64_t bytes_of_head)
{
    int64_t heads = bytes_of_head > 0 ? QP_ATTENTION_PACKED / bytes_of_head : a->kv_heads;
    struct portion p = {1, heads < 1 ? 1 : heads < a->kv_heads ? (int)heads : a->kv_heads};
    if (heads >= a->kv_heads && a->kv_heads > 0)
        p.sequences = heads / a->kv_heads;
    return p;
}

/* The portion that starts at a sequence and a key/value head. */
static inline struct qp_attention attention_part(const struct qp_attention *a, struct portion p, int64_t sequence,
                                                 int head)
{
    int64_t row = sequence * a->length, column = (int64_t)head * a->dim;
    struct qp_attention part = *a;
    int share = a->heads / a->kv_heads;

    part.sequences = a->sequences - sequence < p.sequences ? a->sequences - sequence : p.sequences;
    part.kv_heads = a->kv_heads - head < p.heads ? a->kv_heads - head : p.heads;
    part.heads = part.kv_heads * share;
    part.q += row * a->q_stride + column * share;
    part.k += row * a->k_stride + column;
    part.v += row * a->v_stride + column;
    return part;
}

/* One tile of queries against one of keys after another. */
struct softmax {
    float scores[QUERIES * KEYS], max[QUERIES], sum[QUERIES], keep[QUERIES];
};

static inline void start(struct softmax *t)
{
    for (int i = 0; i < QUERIES; i++) {
        t->max[i] = -FLT_MAX; /* finite, for a window may hide all keys of a row's first tile */
        t->sum[i] = 0;
    }
}

/* The first tile of keys that one of the queries from `first` on sees. */
static inline int64_t first_tile(const struct qp_attention *a, int64_t first)
{
    return a->window > 0 && first >= a->window ? (first + 1 - a->window) / KEYS : 0;
}

/* cap * tanh(score / cap) for each score, where there is a cap. */
static inline void cap_scores(struct softmax *t, float cap)
{
    for (int i = 0; cap > 0 && i < QUERIES * KEYS; i += LANES)
        v_store(t->scores + i, v_set(cap) * v_tanh(v_load(t->scores + i) / v_set(cap)));
}

/* Hides what comes after a row's own token and the first `hidden` keys, and moves the row's maximum. */
static inline float raise(float *scores, int64_t hidden, int64_t visible, float max)
{
    vf most = v_set(max);

    for (int64_t j = visible < 0 ? 0 : visible; j < KEYS; j++)
        scores[j] = -INFINITY;
    for (int64_t j = 0; j < hidden && j < KEYS; j++)
        scores[j] = -INFINITY;
    for (int j = 0; j < KEYS; j += LANES)
        most = v_max(v_load(scores + j), most);
    return v_largest(most);
}

/* Turns scores into weights relative to the new maxima; keep: what old sums and outputs are worth under them. Row i
 * sees the first `visible` + i keys of the tile, the last `window` of them if window > 0. */
static inline void soften(struct softmax *t, int64_t visible, int64_t window)
{
    int64_t hidden = window > 0 ? visible - window : -QUERIES;
    float most[QUERIES];

    for (int i = 0; i < QUERIES; i++)
        most[i] = raise(t->scores + i * KEYS, hidden + i, visible + i, t->max[i]);
    for (int i = 0; i < QUERIES; i += LANES)
        v_store(t->keep + i, v_exp(v_load(t->max + i) - v_load(most + i)));
    for (int i = 0; i < QUERIES; i++) {
        vf sum = v_set(0);
        for (int j = 0; j < KEYS; j += LANES) {
            vf e = v_exp(v_load(t->scores + i * KEYS + j) - v_set(most[i]));
            v_store(t->scores + i * KEYS + j, e);
            sum += e;
        }
        t->sum[i] = t->sum[i] * t->keep[i] + v_sum(sum);
        t->max[i] = most[i];
    }
}

#endif
