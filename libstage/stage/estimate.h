/* What a stage says of its work and memory before a run, as JSON (schemas/estimate.schema.json): `STAGE --estimate`. */
#ifndef QUANTPIPE_STAGE_ESTIMATE_H
#define QUANTPIPE_STAGE_ESTIMATE_H

#include "libstage/include/stage.h"
#include "libstage/network/estimate.h"

/* Answers a question; what a stage without `estimate` does is unknown. *out is a new reference. QP_ERR_INPUT when the
 * question has not the form, or when the stage refuses its parameters. */
int qp_stage_estimate(const struct qp_stage_desc *desc, const json_t *question, json_t **out, struct qp_error *err);

/* {fixed_bytes, block_bytes, emitted_bytes} of an estimate that has them. A new reference, NULL without memory. */
json_t *qp_memory_json(const struct qp_estimate *estimate);

/* Reads an answer. What is missing or no number at least 0 is unknown: it may come from a stage of any kind. Of
 * `provides` nothing is read. */
void qp_estimate_from_json(const json_t *answer, struct qp_estimate *out);

#endif
