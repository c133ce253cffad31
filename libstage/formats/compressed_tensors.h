/* The compressed-tensors layout: names, dtypes and config of what llm-compressor writes and vLLM and transformers
 * read, as of compressed-tensors 0.20. */
#ifndef QUANTPIPE_FORMATS_COMPRESSED_TENSORS_H
#define QUANTPIPE_FORMATS_COMPRESSED_TENSORS_H

#include "libstage/base/json.h"

#include "libstage/tensor/quantized.h"
#include "libstage/tensor/scheme/scheme.h"
#include "libstage/tensor/tensor.h"

/* The word that compressed-tensors uses for how a linear is stored (its infer_module_format): "nvfp4-pack-quantized",
 * "mxfp4-pack-quantized", "mxfp6-pack-quantized" and "mxfp8-quantized" by the weights' format; else "pack-quantized"
 * for integer weights alone, "int-quantized" and "float-quantized" with quantized activations, "naive-quantized" for
 * FP8 weights alone. Static storage. */
const char *qp_compressed_format(const struct qp_linear_scheme *scheme);

/* Refuses what the layout cannot hold for a linear [rows, cols]: a short last group, FP8 E5M2, MXFP6 in E3M2, MXINT8,
 * NVFP4 in groups of 32. QP_ERR_INPUT naming the module and what to use instead. */
int qp_compressed_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                        struct qp_error *err);

/* Whether the layout stores codes of the scheme as the words of kernels/pack.h. */
bool qp_compressed_packs_words(const struct qp_linear_scheme *scheme);

/* The tensors that hold `q` under the module name `module` ("model.layers.0.mlp.up_proj"), by qp_compressed_format:
 *   pack-quantized         weight_packed I32, weight_scale, weight_shape I64 [2], and weight_zero_point packed down the
 *                          rows when q has zero points
 *   *4-, mxfp6-pack-...    weight_packed U8, two codes a byte, low nibble first (MXFP6: four codes in three bytes,
 * little endian), weight_scale; NVFP4 also weight_global_scale F32 [1] the others             weight, weight_scale and
 * weight_zero_point I8 weight_scale is [1], [rows, groups] or, of blocks, [blocks of rows, groups]; in the number
 * format's scale_dtype, E8M0 as U8. Every scale is exact in it, and the same in all rows of a block, or the error names
 * the tensor. q may have packed codes where the layout packs words; codes of a tensor that are stored as they are get a
 * view of it, not a copy. New references into out[QP_COMPRESSED_MAX]; *count says how many. */
#define QP_COMPRESSED_MAX 4
int qp_compressed_pack(const char *module, const struct qp_linear_scheme *scheme, const struct qp_quantized *q,
                       struct qp_tensor *out[QP_COMPRESSED_MAX], size_t *count, struct qp_error *err);

/* A scale that calibration fixed: NAME [1] in `dtype`. Names: MODULE.input_scale (the spec's scale_dtype), of NVFP4's
 * activations MODULE.input_global_scale (F32), of the KV cache ATTENTION.k_scale and .v_scale. QP_ERR_INPUT when it is
 * not finite, not above 0 or not exact in `dtype`. */
int qp_compressed_fixed_scale(const char *name, enum qp_dtype dtype, float value, struct qp_tensor **out,
                              struct qp_error *err);

/* The quantization_config of a checkpoint. `ignore`: JSON array of module names left alone. The scheme's rules become
 * config groups of their own, with regular expressions that exclude each other. *out is a new reference. */
int qp_compressed_config(const struct qp_scheme *scheme, const json_t *ignore, json_t **out, struct qp_error *err);

/* The scheme that a quantization_config says: the way back. QP_ERR_INPUT for what this version cannot read, with
 * `path` (of the config.json) and the key. */
int qp_compressed_parse(const json_t *config, const char *path, struct qp_scheme **out, struct qp_error *err);

/* Where tensors are found: find borrows them out, NULL when there is none of that name. */
typedef struct qp_tensor *qp_find_fn(void *context, const char *name);
struct qp_finder {
    qp_find_fn *find;
    void *context;
};

/* Dequantizes the linear `module` to float32 w[rows, cols] from the tensors found: shapes, dtypes and scales are
 * checked against [rows, cols] and `scheme`. Both ways of storing integers are read, whichever the tensors' names show.
 */
int qp_compressed_unpack(const char *module, const struct qp_linear_scheme *scheme, int64_t rows, int64_t cols,
                         struct qp_finder finder, float *w, struct qp_error *err);

#endif
