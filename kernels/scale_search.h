/* The search for the scale that quantizes each group of a matrix best. */
#ifndef QUANTPIPE_KERNELS_SCALE_SEARCH_H
#define QUANTPIPE_KERNELS_SCALE_SEARCH_H

#include "kernels/quant.h"

/* For each group of w[rows, cols], with [min, max] its range as in qp_qparams: candidate k, 0 <= k < steps, is the
 * scale (and zero) of the range [p min, p max], p = first + k (last - first) / (steps - 1), rounded as the number
 * format says. With `sweep`, number formats with E4M3 or E8M0 scales try every scale that their dtype can hold between
 * those of p = first and p = last instead (NVFP4: modelopt's sweep over the 126 finite values; MX: the neighbouring
 * exponents). Kept is the candidate of least error, the earliest of equals; candidate p = 1 is tried first, so that a
 * group never gets worse than by its range. Error of a group with d = dequantize(quantize(w)) - w:
 *   hessian NULL:  sum over j of importance[j] |d_j|^norm        importance NULL: 1
 *   else:         dᵀ H_g d, H_g the group's block of the diagonal of hessian[cols, cols]
 * Sources: norm 2.4, the MSE search of GPTQ's reference and llm-compressor; importance = diag(H), llama.cpp's imatrix;
 * the block of H, modelopt's local Hessian.
 * That costs as much as group products for each number and candidate: for groups of some hundreds at most.
 * NaN in w counts as 0. Exact on every backend: float32 in a fixed order, sums over a row's columns in 16 partial sums,
 * over rows (group = 0) in float64; |d|^norm for another norm than 2 is within 2^-17 of it. */
struct qp_scale_search {
    const struct qp_number_format *format;
    int64_t rows, cols, group; /* group = 0: one scale for all, searched as one group (hessian has to be NULL) */
    const float *w;
    const float *importance; /* [cols], at least 0, or NULL */
    const float *hessian;    /* [cols, cols] symmetric, or NULL */
    double norm;             /* 2 or 2.4 (any number from 0.5 to 8 works); not looked at with hessian */
    float first, last;       /* 1.0 and 0.5, say */
    int steps;               /* at least 1; with 1, only p = 1; not looked at where `sweep` applies */
    bool sweep;
    float *scale; /* out: qp_scale_count(rows, cols, group) */
    int8_t *zero; /* out, may be NULL when symmetric */
};
typedef void qp_scale_search_fn(const struct qp_scale_search *s);

qp_scale_search_fn qp_scale_search_ref;

#endif
