/* Asymmetry of a layer's sites: how far the inputs after quantized layers are from the original ones, in the metric
 * that quantize's asymmetric calibration towards the original network needs. One window in eight, at least one, is held
 * out of it: what is learned from the others is judged on those. */
#ifndef QUANTPIPE_CALIBRATE_ASYMMETRY_H
#define QUANTPIPE_CALIBRATE_ASYMMETRY_H

#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "libstage/calibration/data.h"

struct qp_asymmetry;

/* For the layer `block`, whose tokens, those of `windows`, come in parts of at most `tokens`. QP_ERR_INPUT for a single
 * window, of which none can be held out. */
int qp_asymmetry_open(struct qp_stage *stage, const struct qp_block *block, const struct qp_windows *windows,
                      int64_t tokens, struct qp_asymmetry **out, struct qp_error *err);
void qp_asymmetry_free(struct qp_asymmetry *asymmetry); /* NULL is accepted */

/* A part begins: first all its inputs after quantized layers come, then the same tokens' original ones. */
void qp_asymmetry_begin(struct qp_asymmetry *asymmetry);
void qp_asymmetry_quantized(struct qp_asymmetry *asymmetry, int site, enum qp_dtype dtype, const void *x, int64_t rows,
                            int64_t in);

/* A qp_site_fn. */
int qp_asymmetry_original(void *asymmetry, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err);

/* Moves the sums into the unit, as B.S.asymmetry (as large as all windows' would be), .held_asymmetry and
 * .held_hessian. */
int qp_asymmetry_put(struct qp_asymmetry *asymmetry, struct qp_unit *unit, struct qp_error *err);

#endif
