/* What the CPU functions call of oneDNN, the same for its versions 2 and 3: the functions that have not changed by
 * their own names (dnnl_sgemm, dnnl_gemm_s8s8s32), and the product below, whose interface has. A call that fails is a
 * failure (kernels/failure.h). */
#ifndef QUANTPIPE_KERNELS_CPU_DNNL_H
#define QUANTPIPE_KERNELS_CPU_DNNL_H

#include <stdbool.h>
#include <stdint.h>

/* A product y[m, n] = x wᵀ, or y += that, of BF16 x[m, k] and w[n, k] into float32; numbers between rows in memory. */
struct qp_dnnl_product {
    int64_t m, n, k, x_stride, w_stride, y_stride;
    bool add;
};

/* Multiplies with as many threads as OpenMP gives the calling thread. */
void qp_dnnl_multiply(const struct qp_dnnl_product *product, const uint16_t *x, const uint16_t *w, float *y);

#endif
