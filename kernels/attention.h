/* Causal scaled dot-product attention with grouped key/value heads (Ainslie et al. 2023). */
#ifndef QUANTPIPE_KERNELS_ATTENTION_H
#define QUANTPIPE_KERNELS_ATTENTION_H

#include <stdint.h>

/* For each of `sequences` sequences of `length` tokens: out = softmax(scale * q kᵀ + causal mask) v, head by head;
 * query head h reads key/value head h / (heads / kv_heads). Rows are tokens (sequence after sequence), *_stride floats
 * apart; within a row, head h starts at h * dim. Never holds more than a tile of the scores a thread. Tolerance
 * relative to the largest |v|: 2e-7 (10 + scale |q| |k|) with the largest norms of a head's q and k, as float32 scores
 * have it. out overlaps none of the inputs. */
struct qp_attention {
    int64_t sequences, length;
    int heads, kv_heads, dim;
    float scale;
    const float *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    float *out;
    int64_t out_stride;
};
typedef void qp_attention_fn(const struct qp_attention *a);

qp_attention_fn qp_attention_ref;

#endif
