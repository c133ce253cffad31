/* Calibrators: from what was seen of activations to the range [-r, r] that one static scale covers.
 *
 * Histograms are collected one a channel with logarithmic bins (libstage/calibration/histogram.h), so that they can be
 * folded: dividing a channel by its fold moves its bins' edges and nothing else. Here they become one histogram of |x|
 * with QP_RANGE_BINS equal bins up to the largest |x|: the count of a logarithmic bin is spread evenly over its
 * interval, which ends at the channel's absmax at most; bin 0 begins at 0. A logarithmic bin is 4.4 % wide.
 *
 * The algorithms, and the 2048 bins with candidates from bin 128 on, are those of NVIDIA's pytorch-quantization
 * (calib/histogram.py), which modelopt kept. */
#ifndef QUANTPIPE_CALIBRATION_CALIBRATOR_H
#define QUANTPIPE_CALIBRATION_CALIBRATOR_H

#include "kernels/kernels.h"

enum { QP_RANGE_BINS = 2048, QP_RANGE_START = 128 };

struct qp_range_histogram {
    double absmax; /* the upper edge of the last bin */
    double total;
    double bins[QP_RANGE_BINS];
};

/* From counts[n, QP_LOG_BINS], the channels' folds (NULL: none) and their absmax[n] with the folds in. */
void qp_range_histogram(int64_t n, const float *counts, const float *fold, const float *absmax,
                        struct qp_range_histogram *out);

/* The smallest range that at least `percent` of the values lie in, interpolated within a bin; absmax for 100. */
float qp_range_percentile(const struct qp_range_histogram *histogram, double percent);

/* The range whose clipped and quantized histogram has the least KL divergence from the original one (Migacz 2017,
 * TensorRT). Values beyond a candidate count in its last bin; bins that one code stands for share their counts evenly
 * over those that are not empty; bin 0 gets the count of bin 1, as there. For integers of b bits a candidate is cut
 * into 2^(b-1) equal parts; for small floats bins belong to the code of their centres. The largest of equals. */
float qp_range_entropy(const struct qp_kernels *kernels, const struct qp_number_format *format,
                       const struct qp_range_histogram *histogram);

/* The range with the least sum over the bins of count |Q(c) - c|^norm, c a bin's centre; the largest of equals. */
float qp_range_mse(const struct qp_kernels *kernels, const struct qp_number_format *format, double norm,
                   const struct qp_range_histogram *histogram);

/* Moving averages of the least and of the largest number of each window, e <- 0.99 e + 0.01 end, from the first
 * window's; the range is the larger magnitude (llm-compressor's observer `minmax`, averaging_constant 0.01).
 * window_min and window_max[windows, n] are divided by `fold` (NULL: none). */
float qp_range_average(int64_t windows, int64_t n, const float *window_min, const float *window_max, const float *fold);

/* modelopt's nvfp4_act_headroom (0.47, calib/nvfp4_act_headroom.py), the range below NVFP4's global scale that leaves
 * headroom above what the text had: max(rho * low, high), low the 1st and high the 99.99th percentile of counts[512],
 * the largest magnitudes of blocks (qp_block_histogram_add), at the bins' centres; for `low` less than high / 1e6 is
 * left out. `absmax`, the largest of all, when nothing was counted. */
float qp_range_headroom(const float *counts, float absmax, double rho);

/* The share of values beyond a range. */
double qp_range_clipped(const struct qp_range_histogram *histogram, double range);

#endif
