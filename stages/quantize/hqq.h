/* Half-quadratic quantization: scales and zero points from the weights alone. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_HQQ_H
#define QUANTPIPE_STAGES_QUANTIZE_HQQ_H

#include "stages/quantize/site.h"

/* Improves the scales and zero points of a member (HQQ, Badri and Shaji 2023): minimises sum |e|^0.7 over each group,
 * e = w - dequantize(codes), by splitting off e' = shrink(e), shrink(x) = sign(x) max(0, |x| - |x|^(p - 1) / beta), and
 * fitting the number format to w - e'; p = 0.7, beta = 10, times 1.01 a step, 20 steps, ended by a step that does not
 * lower mean |e|. The original fits a real zero point alone: z = mean(code - (w - e') / scale). Zero points of
 * checkpoints are whole numbers and those of symmetric number formats are 0, so the scale is fitted as well, by least
 * squares. QP_ERR_INPUT for scales that cannot be fitted one by one: two-dimensional blocks, and those that are powers
 * of 2. */
int qp_hqq(struct qp_member *member, struct qp_error *err);

#endif
