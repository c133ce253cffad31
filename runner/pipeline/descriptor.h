/* Stage executables and what they say of themselves (schemas/stage.schema.json). */
#ifndef QUANTPIPE_RUNNER_PIPELINE_DESCRIPTOR_H
#define QUANTPIPE_RUNNER_PIPELINE_DESCRIPTOR_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"

/* The folder of the built-in stages: ../libexec/quantpipe as seen from this program. New memory. */
int qp_builtin_folder(char **out, struct qp_error *err);

/* Names of the built-in stages, sorted: a new array of strings. */
int qp_builtin_names(json_t **out, struct qp_error *err);

/* Runs `command` with --describe (in `folder`, NULL: this one), for at most `timeout` seconds (0: any), and checks the
 * form of the answer. *out is a new reference. */
int qp_descriptor_read(char *const *command, const char *folder, int timeout, json_t **out, struct qp_error *err);

/* The same of the built-in stage at `path`, from PATH.json beside it when that is no older than the stage. */
int qp_builtin_descriptor(const char *path, json_t **out, struct qp_error *err);

/* Checks that a value is a descriptor as schemas/stage.schema.json says; QP_ERR_INPUT names the key that is not. */
int qp_descriptor_check(const json_t *descriptor, struct qp_error *err);

#endif
