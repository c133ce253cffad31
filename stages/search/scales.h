/* Where candidates for the scales of a site come from. */
#ifndef QUANTPIPE_STAGES_SEARCH_SCALES_H
#define QUANTPIPE_STAGES_SEARCH_SCALES_H

#include "stages/search/trial.h"

/* What candidates are made of, [in] each; channels that fold as one have equal values. */
struct profile {
    float *x; /* mean |x| */
    float *w; /* mean over the rows of |W| relative to the largest of its group */
    float *u; /* logarithm of the balanced scales (balance.h); set by whoever wants them */
};

/* x from the block's absmean, w from the trial's members (AWQ, Lin et al. 2024; the 1e-6 of its implementations). */
int profile_open(struct profile *p, const struct trial *t, const struct qp_block *block, int site,
                 struct qp_error *err);
void profile_close(struct profile *p);

/* t->s = x^a / (w^b + 1e-4 [b > 0]), at least 1e-4, divided by sqrt(max s min s): AWQ's candidate is a = r, b = 0
 * (plain) or b = 1 - r (duo). */
void propose_awq(const struct profile *p, struct trial *t, float a, float b);

#endif
