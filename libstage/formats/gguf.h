/* GGUF, read mapped and strictly: metadata as JSON, tensors as views, and dequantization of ggml's block types. */
#ifndef QUANTPIPE_FORMATS_GGUF_H
#define QUANTPIPE_FORMATS_GGUF_H

#include "libstage/base/json.h"

#include "libstage/tensor/tensor.h"

/* ggml's numbers for the types that can be read. */
enum qp_gguf_type {
    QP_GGUF_F32 = 0,
    QP_GGUF_F16 = 1,
    QP_GGUF_Q4_0 = 2,
    QP_GGUF_Q4_1 = 3,
    QP_GGUF_Q5_0 = 6,
    QP_GGUF_Q5_1 = 7,
    QP_GGUF_Q8_0 = 8,
    QP_GGUF_Q4_K = 12,
    QP_GGUF_Q6_K = 14,
    QP_GGUF_BF16 = 30,
};

struct qp_gguf_tensor {
    char *name;
    enum qp_gguf_type type;
    int rank;
    int64_t shape[4]; /* outermost first, as in [out, in]: the reverse of the order in the file */
    int64_t elements;
    uint64_t offset; /* of the data, in the file */
    uint64_t bytes;
};

struct qp_gguf {
    char *path;
    json_t *metadata; /* object: key -> number, string, boolean or array of one of them */
    struct qp_gguf_tensor *tensors;
    size_t count;
    struct qp_storage *storage; /* the mapped file */
};

/* Opens and checks the whole of a GGUF v2 or v3 file, every count, length, offset, sum and product included, before
 * anything is allocated from them. QP_ERR_INPUT with file:tensor or file:key. Strings that are no UTF-8 (tokens of
 * byte-level vocabularies never are) are refused. */
int qp_gguf_open(const char *path, struct qp_gguf **out, struct qp_error *err);
void qp_gguf_close(struct qp_gguf *file); /* NULL is accepted */

const struct qp_gguf_tensor *qp_gguf_find(const struct qp_gguf *file, const char *name);

/* "Q4_1"...; "?" otherwise. */
const char *qp_gguf_type_name(enum qp_gguf_type type);

/* Dequantizes rows [row, row + rows) of a tensor of rank 1 (then one row) or 2 to float32, row-major, as ggml's own
 * to_float functions define it, bit for bit. */
void qp_gguf_rows(const struct qp_gguf *file, const struct qp_gguf_tensor *tensor, int64_t row, int64_t rows,
                  float *out);

#endif
