/* Coordinate descent on the scales of a quantized matrix. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_REFIT_H
#define QUANTPIPE_STAGES_QUANTIZE_REFIT_H

#include "libstage/base/error.h"
#include "libstage/tensor/quantized.h"

/* Lowers (w - q)ᵀ H (w - q) + 2 pᵀ (w - q) of each row over its scales, codes kept. With v the levels of a group's
 * codes (q = s v there) and g = H (w - q) + p, the best single change of s is vᵀg / vᵀHv; it is taken if, rounded to
 * what the number format's scales can hold, it lowers the loss, and g -= change * Hv. One pass over the groups;
 * gradient[rows, cols] is g on the way in and out. scale: those of *q, writable; q->group above 0, scales no powers of
 * 2. Returns by how much the loss fell in all. */
double qp_refit_scales(const struct qp_quantized *q, const float *h, float *gradient, float *scale);

#endif
