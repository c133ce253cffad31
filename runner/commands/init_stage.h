/* `quantpipe init stage NAME`: a skeleton of a stage, with a test that passes. */
#ifndef QUANTPIPE_RUNNER_COMMANDS_INIT_STAGE_H
#define QUANTPIPE_RUNNER_COMMANDS_INIT_STAGE_H

#include "runner/args.h"

/* A file of a skeleton: NAME in its name is the stage's identifier, as is @IDENTIFIER@ in its text, where @NAME@ is the
 * stage's name. */
struct qp_template {
    const char *language, *file, *text;
};

/* All of them (runner/templates), ended by a NULL language. */
extern const struct qp_template qp_templates[];

/* Writes the skeleton of a stage into a new folder of its name. QP_ERR_USAGE for a name or a language that cannot be,
 * QP_ERR_INPUT when the folder exists. */
int qp_init_stage(const char *name, const char *language, struct qp_error *err);

#endif
