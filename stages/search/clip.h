/* Scales of weights that are kept in the unit for quantize. */
#ifndef QUANTPIPE_STAGES_SEARCH_CLIP_H
#define QUANTPIPE_STAGES_SEARCH_CLIP_H

#include "stages/search/trial.h"

/* Searches each group of a site's quantized linears for the range that rounds best, and puts the scales (zero points,
 * global scale) into the unit: B.M.weight_scale and its like (network/block.h). All folds that touch the linears,
 * columns and rows, have to be done. */
int clip_site(const struct qp_model *model, struct qp_block *block, int site, enum qp_scale_method method,
              const struct qp_allocator *allocator, struct qp_error *err);

#endif
