/* The softmax of attention in tiles: a running maximum and sum for each row (FlashAttention, Dao et al. 2022, algorithm
 * 1). */
#ifndef QUANTPIPE_KERNELS_ATTENTION_TILE_H
#define QUANTPIPE_KERNELS_ATTENTION_TILE_H

#include <math.h>

#include "kernels/cpu/vector/vector.h"

/* Rows and columns of a tile; the rows are a multiple of LANES. */
enum { QUERIES = 48, KEYS = 64 };

/* One tile of queries against one of keys after another. */
struct softmax {
    float scores[QUERIES * KEYS], max[QUERIES], sum[QUERIES], keep[QUERIES];
};

static inline void start(struct softmax *t)
{
    for (int i = 0; i < QUERIES; i++) {
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
    }
}

/* Hides what lies behind a row's own token and moves the row's maximum. */
static inline float raise(float *scores, int64_t visible, float max)
{
    vf most = v_set(max);

    for (int64_t j = visible < 0 ? 0 : visible; j < KEYS; j++)
        scores[j] = -INFINITY;
    for (int j = 0; j < KEYS; j += LANES)
        most = v_max(v_load(scores + j), most);
    return v_largest(most);
}

/* Turns scores into weights relative to the new maxima; keep: what old sums and outputs are worth under them. Row i
 * sees the first `visible` + i keys of the tile. */
static inline void soften(struct softmax *t, int64_t visible)
{
    float most[QUERIES];

    for (int i = 0; i < QUERIES; i++)
        most[i] = raise(t->scores + i * KEYS, visible + i, t->max[i]);
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
