/* Randomized Hadamard rotations of vectors, rows and columns, in float64. */
#ifndef QUANTPIPE_STAGES_ROTATE_ROTATION_H
#define QUANTPIPE_STAGES_ROTATE_ROTATION_H

#include "libstage/solvers/hadamard.h"

/* R = diag(sign) H / sqrt(n), orthogonal. */
struct rotation {
    struct qp_hadamard h;
    double *sign;
};

/* Signs are drawn by splitmix64 from (seed, stream). */
int rotation_new(int64_t n, const char *what, uint64_t seed, uint64_t stream, struct rotation *out,
                 struct qp_error *err);
void rotation_free(struct rotation *r); /* a zeroed one is accepted */

/* w[rows, cols]: each run of n columns of each row becomes itself times R (cols a multiple of n); a vector is a matrix
 * of one row. */
int rotate_rows(const struct rotation *r, int64_t rows, int64_t cols, double *w, struct qp_error *err);

/* w[rows, cols]: each run of n rows becomes Rᵀ times itself (rows a multiple of n). */
int rotate_columns(const struct rotation *r, int64_t rows, int64_t cols, double *w, struct qp_error *err);

#endif
