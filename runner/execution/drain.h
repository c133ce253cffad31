/* Stands in for the stages of a branch that has ended early: takes what the shared stages still send them and
 * acknowledges it, so that the other branches go on. */
#ifndef QUANTPIPE_RUNNER_EXECUTION_DRAIN_H
#define QUANTPIPE_RUNNER_EXECUTION_DRAIN_H

#include "libstage/base/error.h"

struct qp_supervisor;
struct qp_drain;

/* Dials every edge that leads into the branch, as its consumers did; they must be gone. */
int qp_drain_open(const struct qp_supervisor *s, int branch, struct qp_drain **out, struct qp_error *err);
void qp_drain_free(struct qp_drain *drain); /* NULL is accepted */

/* Takes what has come. */
int qp_drain_poll(struct qp_drain *drain, struct qp_error *err);

#endif
