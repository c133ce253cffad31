/* Histograms of |x|: one a channel, with logarithmic bins, as calibrate collects them. */
#ifndef QUANTPIPE_CALIBRATION_HISTOGRAM_H
#define QUANTPIPE_CALIBRATION_HISTOGRAM_H

#include <stdint.h>

/* Bins of a channel, and bins of a factor of 2. Bin b holds 2^((b - 320) / 16) <= |x| < 2^((b - 319) / 16); the first
 * one also what is smaller (from 2^-20) and the last one what is larger (to 2^12). */
enum { QP_LOG_BINS = 512, QP_LOG_BINS_PER_OCTAVE = 16, QP_LOG_BIN_OF_ONE = 320 };

/* floor(16 log2 |x|) + 320, held in 0 to 511: exact at the edges that float32 has. x is not NaN. */
int qp_log_bin(float x);

/* The smallest number of a bin: 2^((bin - 320) / 16). */
double qp_log_bin_edge(int bin);

/* Counts x[rows, n] into counts[n, QP_LOG_BINS]; NaN is not counted. Counts are float32, exact to 2^24 a bin. */
void qp_histogram_add(int64_t rows, int64_t n, const float *x, float *counts);

/* ---- of the largest magnitudes of blocks ---- */

enum { QP_BLOCK_BINS = 512, QP_BLOCK_COLUMNS = 16 };

/* floor(512 (log2 x + 40) / 80) in float32, held in 0 to 511, as modelopt 0.47 bins them; x above 0. */
int qp_block_bin(float x);

/* Counts the largest magnitude of each 16 columns of each row of x[rows, n] into counts[512], those above 0. */
void qp_block_histogram_add(int64_t rows, int64_t n, const float *x, float *counts);

#endif
