/* Scales that balance noise against range, by convex minimization. */
#ifndef QUANTPIPE_STAGES_SEARCH_BALANCE_H
#define QUANTPIPE_STAGES_SEARCH_BALANCE_H

#include "stages/search/trial.h"

/* u[in] = log s for the s that minimizes the expected loss of rounding W diag(s): a step of group g in row r is in
 * proportion to its largest |w s|, the error of a rounded weight to its step, and what it does to the outputs to
 * n[j] / s[j]^2, with n the diagonal of H:
 *   L(s) = sum over members and groups g of A_g B_g,  A_g = sum_j n[j] / s[j]^2,  B_g = sum_r (max_j |w[r, j] s[j]|)^2
 * over the columns j of g. log L is convex in log s, since sums, products and maxima of log-convex functions are
 * log-convex (geometric programming: Boyd et al. 2007, section 5); the maximum is taken as the 8-norm, which is smooth.
 * Descent from s = 1 along the gradient divided by the diagonal of the second derivative. Channels that grouped heads
 * share fold as one. */
int balance_scales(const struct trial *t, const struct qp_site *site, float *u, struct qp_error *err);

#endif
