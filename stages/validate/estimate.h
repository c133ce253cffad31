/* What validate will do. */
#ifndef QUANTPIPE_STAGES_VALIDATE_ESTIMATE_H
#define QUANTPIPE_STAGES_VALIDATE_ESTIMATE_H

#include "libstage/network/estimate.h"

/* `compute` is the stage's parameter. */
void qp_validate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out);

#endif
