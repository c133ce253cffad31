/* Products of float32 matrices as products of BF16 ones: each number as the sum of two. */
#ifndef QUANTPIPE_KERNELS_SPLIT_H
#define QUANTPIPE_KERNELS_SPLIT_H

#include <stdint.h>

/* high[i] = BF16(x[i]), low[i] = BF16(x[i] - high[i]): together x[i] within 2^-16 |x[i]|, but for subnormal numbers.
 * The same place for x and what comes of it is not allowed. Exact. */
typedef void qp_split_fn(int64_t count, const float *x, uint16_t *high, uint16_t *low);

/* y[m, n] += x wᵀ for x[m, k] and w[n, k], each given as the two parts of a split; numbers between rows in memory. The
 * product of the low parts is left out: within 2^-14 of the sums of |x| |w|, for any order of float32 sums. Any of m,
 * n, k may be 0. */
struct qp_linear_split {
    int64_t m, n, k;
    const uint16_t *x_high, *x_low;
    int64_t x_stride;
    const uint16_t *w_high, *w_low;
    int64_t w_stride;
    float *y;
    int64_t y_stride;
};
typedef void qp_linear_split_fn(const struct qp_linear_split *l);

qp_split_fn qp_split_ref;
qp_linear_split_fn qp_linear_split_ref;

#endif
