/* The parameters of search, and what it will do. */
#ifndef QUANTPIPE_STAGES_SEARCH_ESTIMATE_H
#define QUANTPIPE_STAGES_SEARCH_ESTIMATE_H

#include "libstage/network/estimate.h"

struct qp_search_options {
    const char *method, *form, *metric;
    int64_t grid;
    bool clip;
};

bool qp_search_clips(const struct qp_search_options *options);

void qp_search_estimate(const struct qp_task *task, const struct qp_search_options *options, struct qp_estimate *out);

#endif
