/* What NVIDIA Model Optimizer 0.47 computes otherwise, for `exact: modelopt` (tests/stage/quantize_exact_test.c). */
#ifndef QUANTPIPE_STAGES_QUANTIZE_MODELOPT_H
#define QUANTPIPE_STAGES_QUANTIZE_MODELOPT_H

#include "stages/quantize/site.h"

/* The global scale of a member in NVFP4 whose site's largest weight is `absmax`, and its reciprocal, which modelopt
 * divides by: those of qp_global_scale, but 448 / absmax under activations in FP8, so that the weights of its kernel
 * fill FP8 (quant_utils.py, get_weight_scaling_factor_2). */
void qp_modelopt_global(struct qp_member *member, float absmax, bool four_over_six);

/* Scales of an NVFP4 member from the ranges of its groups: E4M3(range / (6 * s2)), s2 the reciprocal; 1 for a group of
 * zeros (nvfp4_tensor.py). Others stay as they are. */
void qp_modelopt_scales(struct qp_member *member);

/* Codes of rounding to nearest: FP8 of a whole tensor is divided in the checkpoint's dtype, so rounded twice
 * (to_quantized_weight); NVFP4 is divided by code * s2; MXFP4's ties go to zero, and 0 is -0 (mxfp4_tensor.py). */
void qp_modelopt_round(const struct qp_kernels *kernels, enum qp_dtype dtype, struct qp_member *member);

#endif
