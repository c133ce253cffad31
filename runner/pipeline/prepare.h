/* Everything that is checked before a run, from the command line to the model: what `check`, `plan` and `run` share. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_PREPARE_H
#define QUANTPIPE_RUNNER_PIPELINE_PREPARE_H

#include "libstage/network/checkpoint.h"
#include "runner/pipeline/pipeline.h"
#include "runner/args.h"

struct qp_plan {
    struct qp_pipeline *pipeline;
    struct qp_checkpoint *model; /* open: its sizes are looked up in it */
    json_t *warnings;            /* of the schemes: array of {code, where, message} and, in a list, scheme */
    char *folder;                /* of the run */
};

/* Options of every subcommand that takes a pipeline; ends with a NULL name. */
extern const struct qp_option qp_pipeline_options[];

/* The pipeline that the command line means, checked alone and against its stages, its model, its scheme and its data.
 * `fresh`: the output must not exist, and there must be a place for it and for the run folder. */
int qp_prepare(const struct qp_args *args, bool fresh, struct qp_plan *out, struct qp_error *err);
void qp_plan_free(struct qp_plan *plan);

/* Array of {scheme, path}, a new reference. */
json_t *qp_plan_outputs(const struct qp_plan *plan);

/* The plan's warnings for people, to stderr. */
void qp_plan_warn(const struct qp_plan *plan);

/* Appends what is odd about a scheme and this model: a rule or a pattern of `ignore` that applies to nothing, linears
 * that it leaves as they are without saying so. */
int qp_scheme_warnings(const struct qp_branch *branch, const struct qp_arch *arch, json_t *warnings,
                       struct qp_error *err);

/* Refuses a scheme with a budget that no stage of its branch resolves, or one that waits for itself. */
int qp_budget_check(const struct qp_pipeline *pipeline, size_t branch, struct qp_error *err);

#endif
