/* Quantized matrices in memory. */
#ifndef QUANTPIPE_TENSOR_QUANTIZED_H
#define QUANTPIPE_TENSOR_QUANTIZED_H

#include <stdint.h>

#include "kernels/quant.h"

/* A quantized matrix [rows, cols] in memory, in the terms of kernels/quant.h. Pointers are borrowed by whoever gets
 * one of these. */
struct qp_quantized {
    struct qp_grid grid;
    int64_t rows, cols, group; /* group as in kernels/quant.h: 0 one scale, cols one a row */
    const uint8_t *codes;      /* [rows, cols] */
    const float *scale;        /* qp_scale_count values, each exact in grid.scale_dtype */
    const int8_t *zero;        /* NULL when symmetric */
};

#endif
