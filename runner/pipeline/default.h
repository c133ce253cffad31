/* The default pipeline, compiled in: what `quantpipe run --model DIR --output OUT` runs where there is no file. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_DEFAULT_H
#define QUANTPIPE_RUNNER_PIPELINE_DEFAULT_H

#include <stddef.h>

#include "runner/pipeline/document.h"
#include "runner/args.h"

#define QP_PIPELINE_FILE "pipeline.yaml" /* of the working directory: what is meant when no pipeline is named */

/* pipeline.yaml of the source tree, with names for a user to replace in the place of the embedded model's. */
extern const char qp_default_pipeline[];
extern const size_t qp_default_pipeline_size;

/* The default pipeline as a document for this command line, which overlays come on top of. Model and output have to be
 * given, QP_ERR_USAGE otherwise. Without a calibration text it rounds to nearest and learns from no data; without an
 * evaluation text it has no stage that validates. Relative paths start in the working directory. The caller frees
 * *out. */
int qp_default_document(const struct qp_args *args, struct qp_document **out, struct qp_error *err);

#endif
