/* How large linears are in the compressed-tensors layout, without making them. */
#ifndef QUANTPIPE_FORMATS_COMPRESSED_SIZE_H
#define QUANTPIPE_FORMATS_COMPRESSED_SIZE_H

#include "libstage/tensor/scheme/scheme.h"

struct qp_stored {
    uint64_t bytes; /* of the tensors' data: codes, scales, zero points, global scales, shape */
    int tensors;    /* how many there are: each has an entry in a file's header */
};

/* Of a linear [rows, cols] that is quantized by `scheme`; of one left as it is when `scheme` is NULL or its weights are
 * not enabled. Biases are not counted. Dimensions are those of a model that was checked. */
struct qp_stored qp_compressed_stored(const struct qp_linear_scheme *scheme, enum qp_dtype model_dtype, int64_t rows,
                                      int64_t cols);

#endif
