/* Units kept until a decision can be made, outside of memory. */
#ifndef QUANTPIPE_STAGES_ALLOCATE_SPOOL_H
#define QUANTPIPE_STAGES_ALLOCATE_SPOOL_H

#include "libstage/tensor/unit.h"

struct qp_spool; /* one file in the scratch folder, and the units in order */

int qp_spool_open(const char *scratch, struct qp_spool **out, struct qp_error *err);
void qp_spool_close(struct qp_spool *spool); /* removes the file; NULL is accepted */

/* Keeps what a unit holds, not the unit: tensors that lie in files of others stay there, anything else is copied to the
 * spool's file, so that whoever made it can forget it. The caller keeps the unit. */
int qp_spool_put(struct qp_spool *spool, const struct qp_unit *unit, struct qp_error *err);

/* The next unit in the order they came, for the caller to free or emit; NULL at the end. Nothing can be put any more.
 * Its tensors refer to files that stand until the spool is closed. */
int qp_spool_next(struct qp_spool *spool, struct qp_unit **out, struct qp_error *err);

#endif
