/* Quantized matrices in memory. */
#ifndef QUANTPIPE_TENSOR_QUANTIZED_H
#define QUANTPIPE_TENSOR_QUANTIZED_H

#include <stdint.h>

#include "kernels/quant.h"

struct qp_tensor;

/* A quantized matrix [rows, cols] in memory, in the terms of kernels/quant.h. Pointers are borrowed by whoever gets
 * one of these. */
struct qp_quantized {
    struct qp_number_format format;
    int64_t rows, cols, group;      /* group as in kernels/quant.h: 0 one scale, cols one a row */
    const uint8_t *codes;           /* [rows, cols] */
    const float *scale;             /* qp_scale_count values, each exact in format.scale_dtype */
    const int8_t *zero;             /* NULL when symmetric */
    const int32_t *packed;          /* the codes as words of kernels/pack.h, in place of `codes`, which is NULL then */
    const struct qp_tensor *tensor; /* what codes or packed are the data of; NULL when they are not a tensor's */
};

#endif
