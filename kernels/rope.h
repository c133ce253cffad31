/* Rotary position embedding (Su et al. 2021). */
#ifndef QUANTPIPE_KERNELS_ROPE_H
#define QUANTPIPE_KERNELS_ROPE_H

#include <stdbool.h>
#include <stdint.h>

/* In place on x: `tokens` rows, `stride` floats apart, each with `heads` heads of `dim` floats, of which the first
 * `rotary` <= dim (even) are rotated and the rest stays as it is. Token t has position t % length. For i < rotary / 2,
 * with the pair (a, b) = (x[i], x[i + rotary / 2]), or (x[2 i], x[2 i + 1]) where pairs is true:
 *   a' = a cos[p, i] - b sin[p, i],  b' = b cos[p, i] + a sin[p, i].
 * cos and sin are [length, rotary / 2]. Exact: products rounded before they are added. */
struct qp_rope {
    int64_t tokens, length;
    int heads, dim, rotary;
    int64_t stride;
    bool pairs; /* neighbours, as Su et al. have them, and not halves, as most checkpoints of Hugging Face */
    const float *cos, *sin;
    float *x;
};
typedef void qp_rope_fn(const struct qp_rope *r);

qp_rope_fn qp_rope_ref;

#endif
