/* What quantize will do and hold. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_ESTIMATE_H
#define QUANTPIPE_STAGES_QUANTIZE_ESTIMATE_H

#include "stages/quantize/site.h"

void qp_quantize_estimate(const struct qp_task *task, const struct qp_quantize_options *options,
                          struct qp_estimate *out);

#endif
