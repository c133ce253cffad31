/* Conversion between float32 and the storage types. */
#ifndef QUANTPIPE_KERNELS_CONVERT_H
#define QUANTPIPE_KERNELS_CONVERT_H

#include <stdint.h>

#include "kernels/dtype.h"

/* to_f32: `count` elements of `dtype` (F32, F16, BF16, F64, I8, and one code a byte: F8_E4M3, F8_E5M2, F6_E2M3,
 * F6_E3M2, F4_E2M1, F8_E8M0) at src -> float32 at dst. Exact but for F64, which rounds half to even.
 * from_f32: float32 at src -> `dtype` (those but F64 and I8) at dst, half to even. F16 and BF16 overflow to infinity as
 * IEEE 754 says; narrower floats saturate at the largest finite value, infinities too; NaN stays NaN (quiet, sign kept)
 * and becomes 0 in F6 and F4, which have none. E8M0 drops the sign and takes the power of two that is nearest, the
 * larger of two (0 becomes 2^-127). Bit-exact on every backend, NaN payloads aside. src and dst do not overlap. */
typedef void qp_convert_fn(enum qp_dtype dtype, int64_t count, const void *src, void *dst);

qp_convert_fn qp_to_f32_ref, qp_from_f32_ref;

#endif
