/* Parts of `quantpipe doctor`. */
#ifndef QUANTPIPE_RUNNER_COMMANDS_DOCTOR_H
#define QUANTPIPE_RUNNER_COMMANDS_DOCTOR_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"

/* What is there, and what is wrong with it: array of {name, value, status: "good", "advice" or "problem", advice: text
 * or null}. `folder`: where runs are to be kept. A new reference. */
json_t *qp_doctor_look(const char *folder);

/* Measures this machine for some seconds; an entry of machine.json (schemas/machine.schema.json), a new reference.
 * `folder`: on the disk to be measured. */
int qp_doctor_measure(const char *folder, json_t **out, struct qp_error *err);

#endif
