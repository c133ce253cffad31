/* The block types of ggml that can be read: sizes, names, dequantization. Private to formats/. */
#ifndef QUANTPIPE_FORMATS_GGUF_BLOCKS_H
#define QUANTPIPE_FORMATS_GGUF_BLOCKS_H

#include "libstage/formats/gguf.h"

struct qp_gguf_block {
    const char *name;
    int elements; /* of a block */
    int bytes;
    /* Dequantizes `count` blocks: exactly what dequantize_row_* of ggml-quants.c computes, without fused
     * multiply-adds. NULL: the type is a float, converted by the kernels. */
    void (*dequantize)(const uint8_t *block, int64_t count, float *out);
};

/* The row of the table for a type; NULL when it cannot be read. */
const struct qp_gguf_block *qp_gguf_block(enum qp_gguf_type type);

#endif
