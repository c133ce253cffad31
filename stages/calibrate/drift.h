/* Drift of a layer's sites: how far the inputs behind quantized layers are from the original ones, in the metric that
 * quantize's pull towards the original network needs. One window in eight, at least one, is held out of it: what is
 * learned from the others is judged on those. */
#ifndef QUANTPIPE_CALIBRATE_DRIFT_H
#define QUANTPIPE_CALIBRATE_DRIFT_H

#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "libstage/calibration/data.h"

struct qp_drift;

/* For the layer `block`, whose tokens, those of `windows`, come in parts of at most `tokens`. QP_ERR_INPUT for a single
 * window, of which none can be held out. */
int qp_drift_open(struct qp_stage *stage, const struct qp_block *block, const struct qp_windows *windows,
                  int64_t tokens, struct qp_drift **out, struct qp_error *err);
void qp_drift_free(struct qp_drift *drift); /* NULL is accepted */

/* A part begins: first all its inputs behind quantized layers come, then the same tokens' original ones. */
void qp_drift_begin(struct qp_drift *drift);
void qp_drift_quantized(struct qp_drift *drift, int site, enum qp_dtype dtype, const void *x, int64_t rows, int64_t in);

/* A qp_site_fn. */
int qp_drift_original(void *drift, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err);

/* Moves the sums into the unit, as B.S.drift (as large as all windows' would be), .held_drift and .held_moment. */
int qp_drift_put(struct qp_drift *drift, struct qp_unit *unit, struct qp_error *err);

#endif
