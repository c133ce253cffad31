/* Names that a stage's parameters and ports had in the version before (`was` in its descriptor). */
#ifndef QUANTPIPE_RUNNER_PIPELINE_RENAMED_H
#define QUANTPIPE_RUNNER_PIPELINE_RENAMED_H

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/pipeline.h"

/* Adds the warning "renamed", about what stands at `path` in the pipeline's document. */
int qp_warn_renamed(const struct qp_pipeline *pipeline, const char *path, const char *was, const char *name,
                    struct qp_error *err);

/* Gives parameters of an instance that the user wrote under old names their new ones, with a warning each; QP_ERR_INPUT
 * when both are there. */
int qp_params_rename(const struct qp_pipeline *pipeline, const struct qp_instance *instance, struct qp_error *err);

#endif
