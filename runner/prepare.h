/* Everything that is checked before a run, from the command line to the model: what `check`, `plan` and `run` share. */
#ifndef QUANTPIPE_RUNNER_PREPARE_H
#define QUANTPIPE_RUNNER_PREPARE_H

#include "libstage/model/checkpoint.h"
#include "runner/pipeline.h"
#include "runner/verb.h"

struct qp_plan {
    struct qp_pipeline *pipeline;
    struct qp_checkpoint *model; /* open: its sizes are looked up in it */
    struct qp_scheme *scheme;
    char *folder; /* of the run */
};

/* Options of every verb that takes a pipeline; ends with a NULL name. */
extern const struct qp_option qp_pipeline_options[];

/* The pipeline that the command line means, checked alone and against its stages, its model, its scheme and its data.
 * `fresh`: the output must not exist, and there must be a place for it and for the run folder. */
int qp_prepare(const struct qp_args *args, bool fresh, struct qp_plan *out, struct qp_error *err);
void qp_plan_free(struct qp_plan *plan);

#endif
