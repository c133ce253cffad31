/* `quantpipe check --stage`: plays runner and peers against a stage's executable, and names the rule of
 * libstage/wire/PROTOCOL.md that it breaks. */
#ifndef QUANTPIPE_RUNNER_COMMANDS_CONFORMANCE_H
#define QUANTPIPE_RUNNER_COMMANDS_CONFORMANCE_H

#include "runner/args.h"

/* Options of `check` that belong to it. */
extern const struct qp_option qp_conformance_options[];

/* Checks the command of --stage with the model of --model (a small one) and the text of --text. Prints each rule that
 * holds. QP_ERR_STAGE names the first that is broken. */
int qp_conformance(const struct qp_args *args, struct qp_error *err);

#endif
