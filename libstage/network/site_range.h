/* Ranges of a block's activations and of its KV cache, from its statistics with the folds in. */
#ifndef QUANTPIPE_NETWORK_SITE_RANGE_H
#define QUANTPIPE_NETWORK_SITE_RANGE_H

#include "libstage/calibration/calibrator.h"
#include "libstage/network/block.h"

struct qp_calibrator {
    const char *method; /* "minmax", "average", "percentile", "entropy" or "mse" */
    double percentile;  /* of percentile: 99.99, say */
    double norm;        /* of mse: 2, or 2.4 as llm-compressor */
    double headroom;    /* of NVFP4's global scale: qp_site_headroom's rho; 0: the largest |x| */
};

/* The largest |x| of a site's inputs (statistic absmax). */
int qp_site_absmax(const struct qp_block *block, int site, float *range, struct qp_error *err);

/* The range that the calibrator chooses for a site, and the share of values beyond it. Statistics: absmax; all but
 * minmax: histogram; average: window_min, window_max. */
int qp_site_range(const struct qp_block *block, int site, const struct qp_calibrator *calibrator,
                  const struct qp_number_format *format, float *range, double *clipped, struct qp_error *err);

/* qp_range_headroom of a site. Statistics: absmax, block_histogram; of a site with a fold, which changes the blocks,
 * samples in its place: the blocks of the tokens that are there. */
int qp_site_headroom(const struct qp_block *block, int site, double rho, float *range, struct qp_error *err);

/* The largest |x| of the keys and of the values that a KV cache holds (statistic kv_absmax); values get smaller where
 * v_proj is the fold target of the site after it. */
int qp_cache_absmax(const struct qp_block *block, float *keys, float *values, struct qp_error *err);

#endif
