/* What an evaluation needs of logits: negative log likelihood, divergence from another network, top-1. */
#ifndef QUANTPIPE_KERNELS_LOGITS_H
#define QUANTPIPE_KERNELS_LOGITS_H

#include <stdint.h>

/* For each row r of p[rows, vocab]:
 *   nll_p[r] = logsumexp(p[r]) - p[r, target[r]]           (nats)
 *   top_p[r] = index of the largest p[r], the lowest one on a tie
 * and, when q is not NULL, the same of q and
 *   kl[r] = sum over v of P(v) (ln P(v) - ln Q(v)),  P = softmax(p[r]), Q = softmax(q[r])   (nats)
 * target < 0 gives nll 0. Outputs may be NULL. Sums in float64. Tolerance 1e-5 absolute. */
struct qp_logits {
    int64_t rows, vocab;
    const float *p, *q;
    const int32_t *target;
    double *nll_p, *nll_q, *kl;
    int32_t *top_p, *top_q;
};
typedef void qp_logits_fn(const struct qp_logits *l);

qp_logits_fn qp_logits_ref;

#endif
