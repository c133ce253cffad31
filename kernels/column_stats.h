/* Per-column statistics of activations. */
#ifndef QUANTPIPE_KERNELS_COLUMN_STATS_H
#define QUANTPIPE_KERNELS_COLUMN_STATS_H

#include <stdint.h>

/* Updates, for each column of x[rows, n]: absmax = max(absmax, |x|), abssum += sum of |x|, min, max. Any of the four
 * may be NULL. Start absmax and abssum at 0, min at +inf, max at -inf. absmax, min and max are exact, NaN is ignored;
 * abssum is float64 in the order of the rows. */
typedef void qp_column_stats_fn(int64_t rows, int64_t n, const float *x, float *absmax, double *abssum, float *min,
                                float *max);

qp_column_stats_fn qp_column_stats_ref;

#endif
