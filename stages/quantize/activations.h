/* The numbers of activations and of a KV cache that calibration fixes: stored in the unit for validate and export. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_ACTIVATIONS_H
#define QUANTPIPE_STAGES_QUANTIZE_ACTIVATIONS_H

#include "libstage/include/block_stage.h"
#include "libstage/network/site_range.h"

/* For a decoder layer, as its scheme asks:
 *   B.S.input_scale         of activations with one fixed range: that of the calibrator, over the number format's
 *                           steps as for weights (kernels/quantize.h), rounded to what is stored
 *   B.S.input_global_scale  of NVFP4: 448 * 6 / absmax (libstage/solvers/scales.h), or of a range with headroom
 *   B.kv.key_scale, .value_scale   absmax over the number format's steps
 * Warns "activation-saturates" when more than one value in a thousand lies beyond a range. */
int qp_quantize_activations(struct qp_stage *stage, const struct qp_model *model,
                            const struct qp_calibrator *calibrator, struct qp_block *block, struct qp_error *err);

#endif
