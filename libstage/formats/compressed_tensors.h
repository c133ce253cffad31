/* The compressed-tensors layout: names, dtypes and config of what llm-compressor writes and vLLM and transformers
 * read; pack-quantized, int-quantized and float-quantized. */
#ifndef QUANTPIPE_FORMATS_COMPRESSED_TENSORS_H
#define QUANTPIPE_FORMATS_COMPRESSED_TENSORS_H

#include <jansson.h>

#include "libstage/tensor/quantized.h"
#include "libstage/tensor/scheme.h"
#include "libstage/tensor/tensor.h"

/* The word that compressed-tensors uses for how a linear is stored (its infer_module_format): "pack-quantized" for
 * integer weights alone, "int-quantized" and "float-quantized" with quantized activations, "naive-quantized" for FP8
 * weights alone. Static storage. */
const char *qp_compressed_format(const struct qp_linear_scheme *scheme);

/* Refuses what the layout cannot hold for a linear [rows, cols]: a short last group, FP8 E5M2. QP_ERR_INPUT naming the
 * module and what to use instead. */
int qp_compressed_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                        struct qp_error *err);

/* The tensors that hold `q` under the module name `module` ("model.layers.0.mlp.up_proj"), as `format` says:
 * "pack-quantized": weight_packed, weight_scale, weight_shape, and weight_zero_point, packed down the rows;
 * the others: weight, weight_scale and weight_zero_point. Zero points only when q has them. New references into
 * out[QP_COMPRESSED_MAX]; *count says how many. */
#define QP_COMPRESSED_MAX 4
int qp_compressed_pack(const char *module, const char *format, const struct qp_quantized *q,
                       struct qp_tensor *out[QP_COMPRESSED_MAX], size_t *count, struct qp_error *err);

/* The quantization_config of a checkpoint. `ignore`: JSON array of module names left alone. The scheme's rules become
 * config groups of their own, with regular expressions that exclude each other. *out is a new reference. */
int qp_compressed_config(const struct qp_scheme *scheme, const json_t *ignore, json_t **out, struct qp_error *err);

/* The scheme that a quantization_config says: the way back. QP_ERR_INPUT for what this version cannot read, with
 * `path` (of the config.json) and the key. */
int qp_compressed_parse(const json_t *config, const char *path, struct qp_scheme **out, struct qp_error *err);

/* Dequantizes the linear `module` to float32 w[rows, cols] from the tensors found by `find` (which borrows them out,
 * NULL when there is none): shapes and dtypes are checked against [rows, cols] and `scheme`. Both ways of storing
 * integers are read, whichever the tensors' names show. */
typedef struct qp_tensor *qp_find_fn(void *context, const char *name);
int qp_compressed_unpack(const char *module, const struct qp_linear_scheme *scheme, int64_t rows, int64_t cols,
                         qp_find_fn *find, void *context, float *w, struct qp_error *err);

#endif
