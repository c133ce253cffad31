/* The linear layer of INT8 codes, as engines compute it. */
#ifndef QUANTPIPE_KERNELS_LINEAR_INT8_H
#define QUANTPIPE_KERNELS_LINEAR_INT8_H

#include <stdbool.h>
#include <stdint.h>

/* So long a sum of products of two codes fits in 32 bits, whatever the codes are: k is at most this. */
enum { QP_LINEAR_INT8_DEPTH = 1 << 16 };

/* y[m, n] = sum over l of (x[i, l] - x_zero[i]) (w[j, l] - w_zero[j]), times x_scale[i], times w_scale[j]; or y +=
 * that. x[m, k] and w[n, k] are codes without gaps; zeros may be NULL. The sum is exact; it is rounded to float32, then
 * multiplied by one scale and by the other. Any of m, n, k may be 0. Exact on every backend. */
struct qp_linear_int8 {
    int64_t m, n, k;
    const int8_t *x, *w;
    const float *x_scale, *w_scale;
    const int8_t *x_zero, *w_zero;
    bool add;
    float *y;
};
typedef void qp_linear_int8_fn(const struct qp_linear_int8 *l);

qp_linear_int8_fn qp_linear_int8_ref;

#endif
