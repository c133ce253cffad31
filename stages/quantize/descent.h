/* Improves codes and scales that are there already, in the metric of the Hessian. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_DESCENT_H
#define QUANTPIPE_STAGES_QUANTIZE_DESCENT_H

#include "libstage/solvers/gptq.h"
#include "stages/quantize/site.h"

/* How many steps were taken, and what they lowered the loss by. */
struct qp_descent_result {
    int64_t steps;
    double before, after;
    bool asymmetric; /* with asymmetric calibration */
};

/* Coordinate descent on a member's codes (kernels/descent.h) in options->descent sweeps, each row from the better of
 * its codes and those of rounding to nearest: the loss of a row never rises above either's. `rest`: what GPTQ found out
 * about its codes, which are the better ones then, and not with asymmetric calibration; else NULL. Its gradient is
 * spent. With `refit`, the scales descend as well, each to the best value that its dtype can hold, and the codes once
 * more. Asymmetric calibration with amount a adds 2 a wᵀ D (w - q) to the loss, D the asymmetry: with H and D of the
 * tokens x that come out of quantized blocks, x0 the original network's, at a = 1 it is ||X0 w - X q||² less a constant
 * (GPTAQ's asymmetric objective). That loss falls, so that the loss in the metric of H rises by no more than the added
 * term gives. As D is learned from few tokens, the outcome is kept only where ||X0 w - X q||² over the windows that D
 * has not seen is lower than without asymmetric calibration. */
int qp_descend_member(const struct qp_quantize_options *options, const struct qp_site_work *work, struct qp_member *m,
                      const struct qp_gptq_rest *rest, struct qp_descent_result *out, struct qp_error *err);

#endif
