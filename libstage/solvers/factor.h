/* The factor of H that GPTQ works with, kept as its products want it. */
#ifndef QUANTPIPE_SOLVERS_FACTOR_H
#define QUANTPIPE_SOLVERS_FACTOR_H

#include "kernels/kernels.h"
#include "libstage/base/error.h"

/* H = R Rᵀ of order n, R upper triangular. Where products of split numbers are faster (kernels/split.h), `tiles` is R
 * as a right operand, in the memory of r; else it is NULL. The part below the diagonal mirrors the one above. */
struct qp_factor {
    const struct qp_kernels *kernels;
    int64_t n, across; /* across: tiles of n columns */
    float *r;
    uint16_t *tiles;
};

/* Rows x[rows, n] that products with R take, and with split ones their parts, which qp_factor_prepare makes. */
struct qp_factor_rows {
    float *x;
    uint16_t *tiles; /* a left operand [rows, n]; NULL where products are float32 */
};

/* The memory of r, and with split products of the tiles of `rows` rows, in numbers of 32 bits. */
int64_t qp_factor_size(const struct qp_kernels *kernels, int64_t n);
int64_t qp_factor_rows_size(const struct qp_factor *f, int64_t rows);

/* Takes over r[n, n], what the kernel `factor` gave: R, zeros below; in memory of qp_factor_size. */
void qp_factor_take(struct qp_factor *f, const struct qp_kernels *kernels, int64_t n, float *r);

/* The square block of R on the diagonal that begins at `at`, zeros below: out[count, count]. */
void qp_factor_diagonal(const struct qp_factor *f, int64_t at, int64_t count, float *out);

/* Columns [from, to) of x are as they will be multiplied; those before them were prepared before. */
void qp_factor_prepare(const struct qp_factor *f, int64_t rows, const struct qp_factor_rows *x, int64_t from,
                       int64_t to);

/* Columns [from, to) of x, and [into, end) of y. */
struct qp_factor_span {
    int64_t from, to, into, end;
};

/* y[rows, n], columns [into, end) += x R of columns [from, to) of x, which all come before `into`; or, where `into`
 * comes before them, x Rᵀ. The two ranges may not overlap. */
void qp_factor_add(const struct qp_factor *f, int64_t rows, const struct qp_factor_rows *x,
                   const struct qp_factor_span *span, float *y);

#endif
