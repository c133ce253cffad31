/* What networks do number by number between their larger operations: multipliers of embeddings, residuals and logits,
 * sums of experts, and the soft cap of logits (Gemma Team 2024, section 2). */
#ifndef QUANTPIPE_KERNELS_ELEMENTWISE_H
#define QUANTPIPE_KERNELS_ELEMENTWISE_H

#include <stdint.h>

/* x[i] *= scale. Exact. */
typedef void qp_multiply_fn(int64_t count, float scale, float *x);

/* y[i] += scale * x[i]. Exact: the product is rounded, then the sum. y may be x; otherwise they do not overlap. */
typedef void qp_add_scaled_fn(int64_t count, float scale, const float *x, float *y);

/* x[i] = cap * tanh(x[i] / cap) for cap > 0. Tolerance 1e-6 relative, and 1e-35 max(1, cap) where the result is that
 * small. */
typedef void qp_soft_cap_fn(int64_t count, float cap, float *x);

qp_multiply_fn qp_multiply_ref;
qp_add_scaled_fn qp_add_scaled_ref;
qp_soft_cap_fn qp_soft_cap_ref;

#endif
