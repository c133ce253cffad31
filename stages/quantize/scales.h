/* The scales that a site's linears are rounded with. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_SCALES_H
#define QUANTPIPE_STAGES_QUANTIZE_SCALES_H

#include "stages/quantize/site.h"

/* Sets the scales and zero points of every member: those that are in the unit, or new ones by options->scales.
 * Engines run the linears of a site as one matrix. So NVFP4's have one global scale, that of the largest weight, and
 * those of FP8 with one scale a tensor share the largest (`share`): vLLM would round them anew to it. */
int qp_site_choose_scales(const struct qp_quantize_options *options, const struct qp_model *model,
                          struct qp_site_work *work, struct qp_error *err);

/* A qp_rescale_fn: chooses the scales of one group from its weights as they are in the column loop. */
struct qp_rescaling {
    const struct qp_quantize_options *options;
    const struct qp_site_work *work;
    struct qp_member *member;
};
int qp_rescale_group(void *rescaling, int64_t group, int64_t count, const int64_t *columns, const float *w,
                     struct qp_error *err);

#endif
