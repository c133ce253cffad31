/* Causal scaled dot-product attention with grouped key/value heads (Ainslie et al. 2023), over all that came before or
 * a sliding window of it (Beltagy et al. 2020), with or without a soft cap of the scores (Gemma Team 2024, section 2).
 */
#ifndef QUANTPIPE_KERNELS_ATTENTION_H
#define QUANTPIPE_KERNELS_ATTENTION_H

#include <stdint.h>

/* For each of `sequences` sequences of `length` tokens: out = softmax(cap(scale * q kᵀ) + mask) v, head by head;
 * query head h reads key/value head h / (heads / kv_heads). Query i sees key j if j <= i and, where window > 0,
 * j > i - window: the window counts the query's own token. cap(s) is cap * tanh(s / cap) where cap > 0, else s. Rows
 * are tokens (sequence after sequence), *_stride floats apart; within a row, head h starts at h * dim. Never holds more
 * than a tile of the scores a thread. Tolerance relative to the largest |v|: 2e-7 (10 + scale |q| |k|) with the largest
 * norms of a head's q and k, as float32 scores have it, and twice that with a cap. out overlaps none of the inputs. */
struct qp_attention {
    int64_t sequences, length;
    int heads, kv_heads, dim;
    float scale;
    float cap;      /* 0: none */
    int64_t window; /* 0: all tokens so far */
    const float *q, *k, *v;
    int64_t q_stride, k_stride, v_stride;
    float *out;
    int64_t out_stride;
};
#define QP_ATTENTION_PACKED ((int64_t)32 << 20) /* bytes of keys and values that are packed at once, or one head's */
typedef void qp_attention_fn(const struct qp_attention *a);

/* The same with BF16 at out[tokens, heads * dim] in place of a->out, which is not looked at. Scaled queries, keys,
 * values and weights may be rounded to BF16 before their products, which are summed in float32, so the tolerance
 * relative to the largest |v| is 2^-7 (1 + scale |q| |k|). */
typedef void qp_attention_bf16_fn(const struct qp_attention *a, uint16_t *out);

qp_attention_fn qp_attention_ref;
qp_attention_bf16_fn qp_attention_bf16_ref;

#endif
