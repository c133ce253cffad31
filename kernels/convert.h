/* Conversion between float32 and the storage types. */
#ifndef QUANTPIPE_KERNELS_CONVERT_H
#define QUANTPIPE_KERNELS_CONVERT_H

#include <stdint.h>

#include "kernels/dtype.h"

/* to_f32: `count` elements of `dtype` (F32, F16, BF16, F64, F8_E4M3, F8_E5M2, I8) at src -> float32 at dst. Exact but
 * for F64, which rounds half to even.
 * from_f32: float32 at src -> `dtype` (F32, F16, BF16, F8_E4M3, F8_E5M2) at dst, half to even. F16 and BF16 overflow to
 * infinity as IEEE 754 says; FP8 saturates at the largest finite value, infinities too; NaN stays NaN (quiet, sign
 * kept). Bit-exact on every backend, NaN payloads aside. src and dst do not overlap. */
typedef void qp_convert_fn(enum qp_dtype dtype, int64_t count, const void *src, void *dst);

qp_convert_fn qp_to_f32_ref, qp_from_f32_ref;

#endif
