/* Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face checkpoints. */
#ifndef QUANTPIPE_KERNELS_ROPE_H
#define QUANTPIPE_KERNELS_ROPE_H

#include <stdint.h>

/* In place on x: `tokens` rows, `stride` floats apart, each with `heads` heads of `dim` floats (dim even). Token t has
 * position t % length. With half = dim / 2, for i < half:
 *   x'[i] = x[i] cos[p, i] - x[i + half] sin[p, i],  x'[i + half] = x[i + half] cos[p, i] + x[i] sin[p, i].
 * cos and sin are [length, half]. Exact: products rounded before they are added. */
typedef void qp_rope_fn(int64_t tokens, int64_t length, int heads, int dim, int64_t stride, const float *cos,
                        const float *sin, float *x);

qp_rope_fn qp_rope_ref;

#endif
