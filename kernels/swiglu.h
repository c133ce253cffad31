/* Gated linear unit with SiLU (Shazeer 2020). */
#ifndef QUANTPIPE_KERNELS_SWIGLU_H
#define QUANTPIPE_KERNELS_SWIGLU_H

#include <stdint.h>

/* y[i] = gate[i] / (1 + exp(-gate[i])) * up[i], count elements; y may be gate or up. Tolerance 1e-6 relative, and
 * 1e-35 |up| where the result is that small. */
typedef void qp_swiglu_fn(int64_t count, const float *gate, const float *up, float *y);

/* The same, y rounded to BF16 (half to even); y overlaps neither gate nor up. */
typedef void qp_swiglu_bf16_fn(int64_t count, const float *gate, const float *up, uint16_t *y);

qp_swiglu_fn qp_swiglu_ref;
qp_swiglu_bf16_fn qp_swiglu_bf16_ref;

#endif
