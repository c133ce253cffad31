/* Hessian of activations, H = sum of xᵀx. */
#ifndef QUANTPIPE_KERNELS_HESSIAN_H
#define QUANTPIPE_KERNELS_HESSIAN_H

#include <stdint.h>

/* h[n, n] += xᵀx for x[rows, n], on and above the diagonal; what stands below it is undefined afterwards.
 * float32; the reference accumulates in float64. Deterministic for a given shape and thread count setting:
 * the order of the sums over rows does not depend on the number of threads. */
typedef void qp_hessian_fn(int64_t rows, int64_t n, const float *x, float *h);

/* The same of BF16 x[rows, n]; products are exact, sums are float32, subnormal numbers may count as 0. As many rows as
 * this are copied at once, in other order, or a fourth of them twice. */
enum { QP_HESSIAN_ROWS = 4096 };
typedef void qp_hessian_bf16_fn(int64_t rows, int64_t n, const uint16_t *x, float *h);

/* Copies the upper triangle of h[n, n] onto the lower one. Exact. */
typedef void qp_mirror_fn(int64_t n, float *h);

/* Where row i of a packed upper triangle [n, n] starts; for i = n, how many numbers it has. */
static inline int64_t qp_triangle_row(int64_t n, int64_t i)
{
    return i * n - i * (i - 1) / 2;
}

/* A Hessian as its upper triangle, row by row, with a fold: element [i, j] is the stored one / (fold[i] fold[j]). */
struct qp_packed_hessian {
    const float *rows;
    const float *fold; /* [n], NULL: none */
};

static inline float qp_packed_diagonal(const struct qp_packed_hessian *h, int64_t n, int64_t i)
{
    float d = h->rows[qp_triangle_row(n, i)];
    return h->fold ? d / (h->fold[i] * h->fold[i]) : d;
}

qp_hessian_fn qp_hessian_ref;
qp_hessian_bf16_fn qp_hessian_bf16_ref;
qp_mirror_fn qp_mirror_ref;

#endif
