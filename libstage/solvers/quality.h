/* How far a quantized matrix is from the original one. */
#ifndef QUANTPIPE_SOLVERS_QUALITY_H
#define QUANTPIPE_SOLVERS_QUALITY_H

#include <stdint.h>

#include "kernels/kernels.h"

/* sum of a b, in float64. */
double qp_dot(int64_t count, const float *a, const float *b);

/* loss[r] = delta_r H delta_rᵀ for each row of delta[rows, in] and symmetric h[in, in]: the squared error that delta
 * makes in each output, summed over the tokens of H (GPTQ, Frantar et al. 2023, equation 1). What is symmetric is
 * computed once: little more than half of a product with H. scratch[rows, in]. float32 products, float64 sums. */
void qp_row_losses(const struct qp_kernels *kernels, int64_t rows, int64_t in, const float *delta, const float *h,
                   float *scratch, double *loss);

/* Operations of those products (kernels/work.h): each panel of columns with itself and with all before it. */
double qp_site_loss_operations(int64_t rows, int64_t in);

/* tr(delta H deltaᵀ), the sum of them; small negative results of rounding become 0. */
double qp_site_loss(const struct qp_kernels *kernels, int64_t rows, int64_t in, const float *delta, const float *h,
                    float *scratch);

/* 10 log10(sum w^2 / sum (q - w)^2) in dB; INFINITY when equal. */
double qp_sqnr_db(int64_t count, const float *w, const float *q);

/* delta = q - w; delta may be q. */
void qp_difference(int64_t count, const float *q, const float *w, float *delta);

#endif
