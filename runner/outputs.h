/* The outputs of a run: each is one run's at a time, written in a temporary folder beside it, and published at the end.
 */
#ifndef QUANTPIPE_RUNNER_OUTPUTS_H
#define QUANTPIPE_RUNNER_OUTPUTS_H

#include <stdbool.h>
#include "libstage/base/json.h"

#include "libstage/base/lock.h"

struct qp_run;
struct qp_supervisor;

struct qp_output {
    struct qp_lock lock; /* beside the output */
    struct qp_lock mark; /* in the temporary folder: by it later runs know whose it is, and whether that run lives */
    char *temporary;     /* of mode 0700 */
    char *written;       /* TEMPORARY/NAME: where stages write; borrowed by the stages' context */
    bool published;      /* the output stands */
};

/* Locks every output of the run's pipeline and removes what dead runs have left of them. QP_ERR_INPUT when another run
 * works on one of them, or when one exists. */
int qp_outputs_lock(struct qp_run *run, struct qp_error *err);

/* Makes the temporary folders; after qp_outputs_lock. */
int qp_outputs_open(struct qp_run *run, struct qp_error *err);

/* Removes the temporary folders that the run has made, and lets go of the locks. */
void qp_outputs_close(struct qp_run *run);

/* Gives what the stages of branch `index` have written its name, unless something has that name meanwhile; a branch
 * that wrote nothing has nothing to name. */
int qp_output_publish(struct qp_run *run, size_t index, struct qp_error *err);

/* Paths of the outputs that stand, in the order of the schemes; a new reference, NULL without memory. */
json_t *qp_outputs_published(const struct qp_run *run);

#endif
