/* The work of a plan's stages. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_PLAN_WORK_H
#define QUANTPIPE_RUNNER_PIPELINE_PLAN_WORK_H

#include "kernels/work.h"
#include "runner/pipeline/prepare.h"

/* Whether a stage of the plan reads text, so that the network is computed. */
bool qp_plan_reads_text(const struct qp_plan *plan);

/* What each stage of a plan will have to do, by its index; `known` tells where a formula is. Texts are tokenized to
 * know how long they are. */
int qp_plan_work(const struct qp_plan *plan, struct qp_work *work, bool *known, struct qp_error *err);

#endif
