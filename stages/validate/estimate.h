/* What validate will do and hold. */
#ifndef QUANTPIPE_STAGES_VALIDATE_ESTIMATE_H
#define QUANTPIPE_STAGES_VALIDATE_ESTIMATE_H

#include "libstage/network/estimate.h"

/* `compute` is the stage's parameter. */
int qp_validate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out,
                         struct qp_error *err);

#endif
