/* Memory of a whole run: how many blocks may be on their way within it. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_MEMORY_H
#define QUANTPIPE_RUNNER_PIPELINE_MEMORY_H

#include "runner/pipeline/estimates.h"

/* Bytes that all processes of a run hold together at most, shared memory counted once, with so many blocks on their
 * way: what each stage holds all the time and has added to blocks, and the block in process of as many stages as can
 * work at a time. A stage that gives no estimate counts as its process alone. */
double qp_memory_need(const struct qp_pipeline *pipeline, const struct qp_estimate *stages, int64_t blocks);

/* The budget: `memory` of the pipeline, by default half of what is available now. */
uint64_t qp_memory_budget(const struct qp_pipeline *pipeline);

/* Sets pipeline->blocks to as many as fit into the budget. QP_ERR_SPACE with the sizes when not even one does: into
 * what the user gave, or, by default, into all that is available. */
int qp_memory_divide(struct qp_pipeline *pipeline, const struct qp_estimate *stages, struct qp_error *err);

/* The same for a run, which asks its stages for estimates when it is not plain that there is plenty. */
int qp_plan_divide_memory(struct qp_plan *plan, struct qp_error *err);

#endif
