/* Rounding to nearest in one pass: from a matrix as a checkpoint stores it to codes as a checkpoint stores them. */
#ifndef QUANTPIPE_KERNELS_RTN_H
#define QUANTPIPE_KERNELS_RTN_H

#include "kernels/quant.h"

struct qp_rtn {
    const struct qp_number_format *format;
    int64_t rows, cols;
    int64_t group; /* 1 or more; the last group of a row may be short */
    enum qp_dtype dtype;
    const void *w; /* [rows, cols] of `dtype`: F32, F16, BF16 or F64 */
    bool packed;   /* integers alone */
    float *scale;  /* [rows, groups] */
    int8_t *zero;  /* the same; NULL when symmetric */
    void *codes;   /* packed: the words of kernels/pack.h; else a byte a code */
};

/* The scales, zero points and codes of to_f32, qparams, quantize and pack one after the other. Exact on every backend;
 * the fast ones read w once and write no float32 copy of it. */
typedef void qp_rtn_fn(const struct qp_rtn *job);

qp_rtn_fn qp_rtn_ref;

#endif
