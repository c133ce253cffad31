/* A linear's low-rank correction: w is approximated by q + b a, q in the number format, b a of rank R in the model's
 * dtype. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_LOW_RANK_H
#define QUANTPIPE_STAGES_QUANTIZE_LOW_RANK_H

#include "stages/quantize/site.h"

/* Splits off a member's part of rank options->low_rank before it is quantized: b a is the best approximation of w, and
 * m->w becomes the rest. Best is, by options->low_rank_fit, in the metric of H, or as SVDQuant (Li et al. 2024) has it
 * in that of the weights alone, which leaves the smallest rest: where inputs are rounded, the error of their rounding
 * goes through the rest. With "errors" (LQER, Zhang et al. 2024) b a is 0 and m->w all of w. b is chosen last, to make
 * up for the error of q (qp_low_rank_correct), so that errors in the directions of a cost nothing: m->h becomes what H
 * measures besides, H - H aᵀ (a H aᵀ)⁻¹ a H, which is the loss for the best b (variable projection, Golub and Pereyra
 * 1973). Without a Hessian m->h stays NULL. QP_ERR_INPUT for a rank above the smaller side of the matrix. */
int qp_low_rank_split(const struct qp_quantize_options *options, const struct qp_site_work *work, struct qp_member *m,
                      struct qp_error *err);

/* b a = the best approximation of w - q in the metric of the site's H (kernels/low_rank.h), rounded to the model's
 * dtype; q as the codes have it. */
int qp_low_rank_correct(const struct qp_site_work *work, struct qp_member *m, struct qp_error *err);

/* Splits with the b a that are there: for another round. */
int qp_low_rank_resplit(const struct qp_site_work *work, struct qp_member *m, struct qp_error *err);

void qp_low_rank_free(struct qp_low_rank *low);

#endif
