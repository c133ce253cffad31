/* Rounding to nearest straight from the checkpoint's own matrices, where nothing asks for more. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_DIRECT_H
#define QUANTPIPE_STAGES_QUANTIZE_DIRECT_H

#include "stages/quantize/site.h"

/* Whether all linears of the site are rounded to nearest with the scales of their own ranges, as they are stored: no
 * folds, chosen scales, statistics, coordinate descent, corrections, nor scales that several groups or linears share;
 * not with modelopt's own rounding (quantize/modelopt.h). 1, 0 or an error. */
int qp_site_is_direct(const struct qp_quantize_options *options, const struct qp_model *model,
                      const struct qp_block *block, int site, struct qp_error *err);

/* Rounds the linears of such a site in one pass each (kernels/rtn.h): the numbers are those of the long way. `packed`:
 * codes as words where the checkpoint will hold them so. */
int qp_site_round(const struct qp_model *model, struct qp_block *block, int site, bool packed,
                  const struct qp_allocator *allocator, struct qp_error *err);

#endif
