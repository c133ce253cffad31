/* The outputs of a run: each is one run's at a time, written in a temporary folder beside it, and published at the end.
 */
#ifndef QUANTPIPE_RUNNER_EXECUTION_OUTPUTS_H
#define QUANTPIPE_RUNNER_EXECUTION_OUTPUTS_H

#include <stdbool.h>
#include "libstage/base/json.h"

#include "libstage/base/lock.h"

struct qp_record;
struct qp_run;

struct qp_output {
    struct qp_lock lock; /* beside the output */
    struct qp_lock mark; /* in the temporary folder: by it later runs know whose it is, and whether that run lives */
    char *temporary;     /* of mode 0700 */
};

/* Locks every output of the run's pipeline and removes what dead runs have left of them. QP_ERR_INPUT when another run
 * works on one of them, or when one exists. */
int qp_outputs_lock(struct qp_run *run, struct qp_error *err);

/* Makes the temporary folders; after qp_outputs_lock. */
int qp_outputs_open(struct qp_run *run, struct qp_error *err);

/* Removes the temporary folders that the run has made, and lets go of the locks. */
void qp_outputs_close(struct qp_run *run);

/* After the stages' end: publishes the outputs that have passed, unless something has their name meanwhile. QP_ERR_GATE
 * when a branch failed a gate, or, in a strict run, has warnings. */
int qp_outputs_publish(struct qp_run *run, const struct qp_record *record, struct qp_error *err);

/* Paths of the outputs that stand, in the order of the schemes; a new reference, NULL without memory. */
json_t *qp_outputs_published(const struct qp_run *run);

#endif
