/* What the arithmetic units can do at most: multiply-adds that never leave the registers. */
#ifndef QUANTPIPE_KERNELS_PEAK_H
#define QUANTPIPE_KERNELS_PEAK_H

#include <stdint.h>

enum qp_peak { QP_PEAK_FP32, QP_PEAK_BF16, QP_PEAK_INT8, QP_PEAKS };

/* "fp32", "bf16", "int8". */
extern const char *const qp_peak_names[QP_PEAKS];

/* The instruction that is measured, "vdpbf16ps zmm" say; NULL where this CPU (or what we know of it) has none. */
const char *qp_peak_instruction(enum qp_peak peak);

/* Operations a second of `threads` threads together, two a multiply-add; the best of some runs that take about
 * `seconds` in all. 0 where there is no instruction. */
double qp_peak_measure(enum qp_peak peak, int threads, double seconds);

/* c[m, n] = a bᵀ for INT8 a[m, k] and b[n, k], by the library: what INT8 products reach. */
void qp_product_int8(int64_t m, int64_t n, int64_t k, const int8_t *a, const int8_t *b, int32_t *c);

#endif
