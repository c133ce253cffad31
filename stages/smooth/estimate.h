/* The parameters of smooth, and what it will do. */
#ifndef QUANTPIPE_STAGES_SMOOTH_ESTIMATE_H
#define QUANTPIPE_STAGES_SMOOTH_ESTIMATE_H

#include "libstage/network/estimate.h"

struct qp_smooth_options {
    const char *method, *sites;
    double alpha;
    int64_t grid;
};

void qp_smooth_estimate(const struct qp_task *task, const struct qp_smooth_options *options, struct qp_estimate *out);

#endif
