/* What each stage of a plan will do and hold: asked of the stages themselves (`STAGE --estimate`). */
#ifndef QUANTPIPE_RUNNER_PIPELINE_ESTIMATES_H
#define QUANTPIPE_RUNNER_PIPELINE_ESTIMATES_H

#include "libstage/stage/estimate.h"
#include "runner/pipeline/prepare.h"

/* Whether a stage of the plan reads text, so that the network is computed. */
bool qp_plan_reads_text(const struct qp_plan *plan);

/* One estimate a stage, by its index; a stage whose descriptor does not say `estimates` is not asked, and unknown.
 * Texts are tokenized to know how long they are. Stages are asked side by side, each when all upstream of it have
 * answered. QP_ERR_STAGE when one that says `estimates` gives no answer. */
int qp_plan_estimates(const struct qp_plan *plan, struct qp_estimate *out, struct qp_error *err);

#endif
