/* Hadamard matrices and the fast product with them.
 *
 * An n x n matrix of ones and minus ones is Hadamard when H Hᵀ = n I. Orders known here are products of
 *   2                the Sylvester matrix [1 1; 1 -1]
 *   q + 1            Paley I, q a prime of the form 4k + 3
 *   2 (q + 1)        Paley II, q a prime of the form 4k + 1
 *   52, 92           Williamson
 * since the Kronecker product of two is one again. Sources: Paley, On orthogonal matrices, 1933; Williamson, Hadamard's
 * determinant theorem and the sum of four squares, 1944; Baumert, Golomb and Hall, Discovery of an Hadamard matrix of
 * order 92, 1962; Hedayat and Wallis, Hadamard matrices and their applications, 1978, sections 2 and 3. That covers
 * every order below 100 that can be, 1, 2 and the multiples of 4, and those times powers of two. */
#ifndef QUANTPIPE_SOLVERS_HADAMARD_H
#define QUANTPIPE_SOLVERS_HADAMARD_H

#include <stdbool.h>
#include <stdint.h>

#include "libstage/base/error.h"

enum { QP_HADAMARD_FACTORS = 32, QP_HADAMARD_LARGEST = 1 << 20 };

/* The Kronecker product of its factors, the first the outermost. */
struct qp_hadamard {
    int64_t n;
    int count;
    int64_t order[QP_HADAMARD_FACTORS];
    int8_t *factor[QP_HADAMARD_FACTORS]; /* [order, order]; NULL for 2, which needs none */
};

/* Makes the matrix of order n, the factors chosen for the fewest operations. QP_ERR_INPUT for an order that is not
 * known, with the nearest two that are. `what` names the size in the message. */
int qp_hadamard_new(int64_t n, const char *what, struct qp_hadamard *out, struct qp_error *err);
void qp_hadamard_free(struct qp_hadamard *h); /* a zeroed one is accepted */

bool qp_hadamard_exists(int64_t n);

/* x[n] = x H / sqrt(n), in float64; scratch[n]. Thread-safe. */
void qp_hadamard_apply(const struct qp_hadamard *h, double *x, double *scratch);

#endif
