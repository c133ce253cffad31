/* What calibrate will do and hold. */
#ifndef QUANTPIPE_CALIBRATE_ESTIMATE_H
#define QUANTPIPE_CALIBRATE_ESTIMATE_H

#include "libstage/network/estimate.h"

/* `compute` is the stage's parameter. */
int qp_calibrate_estimate(const struct qp_task *task, const char *compute, struct qp_estimate *out,
                          struct qp_error *err);

#endif
