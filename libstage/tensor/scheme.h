/* Schemes: what to quantize to. A preset by name, or a mapping as in a pipeline's `scheme:`; per-linear rules. */
#ifndef QUANTPIPE_TENSOR_SCHEME_H
#define QUANTPIPE_TENSOR_SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "kernels/quant.h"
#include "libstage/base/error.h"

enum qp_granularity {
    QP_PER_TENSOR = 1,
    QP_PER_CHANNEL, /* weights: one scale a row */
    QP_PER_GROUP,   /* one scale a row and `group` columns: weights, and activations (MX, NVFP4, DeepSeek's FP8) */
    QP_PER_TOKEN,   /* activations: one scale a row */
    QP_PER_BLOCK,   /* weights: one scale for `group` columns of `block_rows` rows */
};

/* How one side (weights, activations, the KV cache) is quantized. enabled = false: left as it is. */
struct qp_quant_spec {
    bool enabled;
    struct qp_grid grid; /* grid.scale_dtype: of integers and FP8 the model's dtype, set by qp_scheme_bind; F32 before */
    enum qp_granularity granularity;
    int64_t group;      /* of QP_PER_GROUP and QP_PER_BLOCK */
    int64_t block_rows; /* of QP_PER_BLOCK */
    bool ragged;        /* a short last group is allowed */
    bool dynamic;       /* activations: ranges taken at run time. NVFP4's blocks are, below one static global scale */
};

struct qp_linear_scheme {
    struct qp_quant_spec weights, activations;
};

struct qp_scheme_rule {
    char *match;                    /* fnmatch pattern over module names */
    struct qp_linear_scheme scheme; /* a side that the rule does not name is the base's */
};

struct qp_scheme {
    char *name;     /* preset name, or "custom" */
    json_t *source; /* as the user wrote it, normalised to a mapping: what travels in the model unit */
    struct qp_linear_scheme base;
    struct qp_quant_spec kv_cache; /* keys and values: per tensor, static; FP8 E4M3, INT8 */
    char **ignore; /* fnmatch patterns over module names, "lm_head" by default; they win over rules */
    size_t ignore_count;
    struct qp_scheme_rule *rules; /* the first that matches wins */
    size_t rule_count;
};

struct qp_preset {
    const char *name; /* int4, int4-asym, int8, fp8-dynamic */
    const char *summary;
    const char *aliases; /* names of the same scheme elsewhere: "W4A16", ... */
    const char *mapping; /* the preset as a JSON mapping */
};

/* All presets, ended by a NULL name. Static. */
const struct qp_preset *qp_presets(void);

/* Parses a preset name or alias (JSON string), or a mapping with the keys name, weights, activations, ignore, rules:
 *   weights:     format, then one of group (with ragged: true if need be) and granularity (channel by default, tensor);
 *                symmetric (true by default)
 *   activations: format, granularity (token by default, tensor), symmetric, dynamic (true)
 *   rules:       list of {match, weights, activations}
 *   formats:     int2 ... int8, fp8_e4m3, fp8_e5m2, and bf16 for "leave it as it is"
 * Unknown keys, wrong types and impossible combinations are QP_ERR_INPUT with the key's path ("scheme.weights.group").
 */
int qp_scheme_parse(const json_t *value, struct qp_scheme **out, struct qp_error *err);
void qp_scheme_free(struct qp_scheme *scheme); /* NULL is accepted */

/* Sets the dtype that scales are stored in: the model's own (BF16, F16, F32). */
void qp_scheme_bind(struct qp_scheme *scheme, enum qp_dtype model_dtype);

/* What applies to a module ("model.layers.0.mlp.up_proj"): NULL when it is ignored or left as it is. Borrowed. */
const struct qp_linear_scheme *qp_scheme_for(const struct qp_scheme *scheme, const char *module);

/* Columns that share a scale in a matrix of `cols` columns, as kernels/quant.h wants it (0: one scale for all). */
int64_t qp_spec_group(const struct qp_quant_spec *spec, int64_t cols);

/* Checks that a spec can be applied to a linear [rows, cols]: a group that does not divide `cols` is QP_ERR_INPUT
 * naming the module, the divisors that would work and `ragged: true`. */
int qp_scheme_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                    struct qp_error *err);

#endif
