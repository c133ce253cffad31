/* Coordinate descent on the codes of a quantized matrix. */
#ifndef QUANTPIPE_KERNELS_DESCENT_H
#define QUANTPIPE_KERNELS_DESCENT_H

#include "kernels/quant.h"

/* Lowers, row by row, the loss of the codes in the metric of h:
 *   loss(q) = (w - q)ᵀ H (w - q) + 2 pᵀ(w - q),   q = dequantize(codes),
 * of which it needs to know only half the gradient, g = H (w - q) + p, for the codes that come in. For one column k
 * after the other, in order: the code nearest to q_k + g_k / H_kk in the number format is the best single change; if it
 * differs and lowers the loss (2 delta g_k > delta^2 H_kk, delta the change of q_k), it is taken and g -= delta H[:,
 * k]. A sweep goes over all columns; a row ends when a sweep changed nothing, or after `sweeps`. Every accepted step
 * lowers the loss; columns with H_kk <= 0 are left alone. Rows are independent.
 * `gain` (may be NULL), [rows] float64: by how much each row's loss fell, the sum of 2 delta g_k - delta^2 H_kk over
 * its accepted steps, each of them positive. Returns the number of accepted steps. float32; the fast versions may sum
 * the changes of g in another order than the reference: codes can differ where two are equally good. */
struct qp_descent {
    const struct qp_number_format *format;
    int64_t rows, cols, group; /* as in kernels/quant.h; group = 0: one scale */
    const float *h;            /* [cols, cols] symmetric, positive semidefinite */
    const float *scale;
    const int8_t *zero; /* NULL when symmetric */
    uint8_t *codes;     /* [rows, cols], changed in place */
    float *gradient;    /* [rows, cols] g, changed in place: that of the codes as they are left */
    int sweeps;
    bool codes_only; /* nobody looks at `gradient` afterwards: what it holds then is undefined */
    double *gain;
};
typedef int64_t qp_descent_fn(const struct qp_descent *p);

/* Bytes that it takes to work with, about: for each row two lists of what a sweep changes, and a panel a thread. */
static inline double qp_descent_bytes(int64_t rows, int64_t cols, int threads)
{
    return 16 * (double)rows * ((double)cols / 8 + 128) + 256 * (double)threads * (double)cols;
}

qp_descent_fn qp_descent_ref;

#endif
