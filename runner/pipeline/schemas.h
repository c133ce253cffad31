/* The published schemas of what stages send, compiled in: the runner takes what they allow, and nothing else. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_SCHEMAS_H
#define QUANTPIPE_RUNNER_PIPELINE_SCHEMAS_H

#include "libstage/base/json.h"

/* schemas/stage.schema.json and schemas/control.schema.json, NUL-terminated. */
extern const char qp_stage_schema[], qp_control_schema[];

/* Checks the body of a stage's message of this kind. QP_ERR_INPUT says which key differs in what. For one thread. */
int qp_control_body_check(const char *kind, const json_t *body, struct qp_error *err);

#endif
