/* The best approximation of low rank. */
#ifndef QUANTPIPE_KERNELS_LOW_RANK_H
#define QUANTPIPE_KERNELS_LOW_RANK_H

#include <stdint.h>

/* b[rows, rank] and a[rank, cols] that minimise tr((e - b a) H (e - b a)ᵀ) for e[rows, cols] and h[cols, cols]
 * (symmetric, positive semidefinite; NULL: the identity); rank at most the smaller side.
 * For any F with F Fᵀ = H the loss is the squared Frobenius norm of (e - b a) F, so b a F is the truncated singular
 * value decomposition of e F (Eckart and Young 1936). Its left vectors are eigenvectors of e F Fᵀ eᵀ = e H eᵀ, which
 * no longer knows of F; and the best a for orthonormal b is bᵀ e. So H has to be neither factored nor inverted (LQER,
 * Zhang et al. 2024, and QERA, Zhang et al. 2025, write the same optimum with H^(1/2) and its inverse).
 * Columns of b are orthonormal, by falling eigenvalue, their signs open; those of eigenvalues below QP_LOW_RANK_NOTHING
 * of the trace are 0. Returns 0, or -1 for numbers that are not finite and
 * when the operation failed (kernels/failure.h). The reference works in float64 by Jacobi's
 * rotations; tolerance 1e-4 of tr(e H eᵀ) in the loss, 1e-5 in the products of the columns of b. */
#define QP_LOW_RANK_NOTHING 1e-13
typedef int qp_low_rank_fn(int64_t rows, int64_t cols, int64_t rank, const float *e, const float *h, float *b,
                           float *a);

qp_low_rank_fn qp_low_rank_ref;

#endif
