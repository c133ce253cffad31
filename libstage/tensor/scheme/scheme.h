/* Schemes: what to quantize to. A preset by name, or a mapping as in a pipeline's `scheme:`; per-linear rules. */
#ifndef QUANTPIPE_TENSOR_SCHEME_H
#define QUANTPIPE_TENSOR_SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "libstage/base/json.h"

#include "kernels/quant.h"
#include "libstage/base/error.h"
#include "libstage/tensor/scheme/match.h"

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
    struct qp_number_format format; /* format.scale_dtype: of integers and FP8 the model's dtype, set by
                                     * qp_scheme_bind; F32 before. format.global is 0: it is a matrix's */
    enum qp_granularity granularity;
    int64_t group;      /* of QP_PER_GROUP and QP_PER_BLOCK */
    int64_t block_rows; /* of QP_PER_BLOCK */
    bool ragged;        /* a short last group is allowed */
    bool four_over_six; /* weights in NVFP4: see qp_global_scale and qp_choose_scales in libstage/solvers/scales.h */
    bool dynamic;       /* activations: ranges taken at run time. NVFP4's blocks are, below one static global scale */
};

struct qp_linear_scheme {
    struct qp_quant_spec weights, activations;
};

struct qp_scheme_rule {
    char *match;                    /* fnmatch pattern over module names */
    struct qp_linear_scheme scheme; /* a side that the rule does not name is the base's */
};

/* Whose arithmetic is followed to the bit. With x a range's absmax:
 *   NONE            as LLM_COMPRESSOR, but E8M0 scales of weights follow OCP's rule (floor); those of activations are
 *                   the engine's at run time: compressed-tensors, and vLLM through it, round by even
 *   LLM_COMPRESSOR  symmetric integers: scale = x / ((qmax - qmin) / 2), so 7.5 and 127.5; scales stored in the model's
 *                   dtype; E8M0 rule even, as compressed-tensors 0.20 rounds
 *   MODELOPT        symmetric integers: scale = x / qmax, so 7 and 127 (format.narrow), and no zero points; scales of
 *                   integers and FP8 kept and stored in float32; E8M0 rule ceil. Rounding to nearest follows it to the
 *                   byte (stages/quantize/modelopt.h has what it does otherwise)
 * Either of them: FP8 linears that engines fuse keep scales of their own. FP8's scale is x / 448 in all. What stays
 * ours: NVFP4's block scale is at least 2^-9, where llm-compressor has 2^-3 for a scale that rounds to 0; four over six
 * and searched scales. */
enum qp_exact { QP_EXACT_NONE, QP_EXACT_LLM_COMPRESSOR, QP_EXACT_MODELOPT };

struct qp_scheme {
    char *name; /* preset name, or "custom" */
    enum qp_exact exact;
    json_t *source; /* as the user wrote it, normalised to a mapping: what travels in the model unit */
    struct qp_linear_scheme base;
    struct qp_quant_spec kv_cache; /* keys and values: per tensor, static; FP8 E4M3, INT8 */
    char **ignore;                 /* fnmatch patterns over module names, "lm_head" by default; they win over rules */
    size_t ignore_count;
    struct qp_scheme_rule *rules; /* the first that matches wins */
    size_t rule_count;
    struct qp_match_list ignore_match, rule_match; /* the same patterns, for lookups */
    struct qp_budget *budget; /* formats are still to be chosen (scheme/budget.h): base is empty; NULL otherwise */
};

struct qp_preset {
    const char *name; /* "int4", "fp8-dynamic" */
    const char *summary;
    const char *llm_compressor, *modelopt; /* names of the same numbers there, separated by ", "; "": none */
    const char *mapping;                   /* the preset as a JSON mapping */
};

/* A preset of a peer that is one of ours and a method: stage parameters give the method. */
struct qp_preset_method {
    const char *names; /* of the peer, separated by ", " */
    const char *preset;
    const char *parameters; /* separated by spaces: "search.method=awq" is --set stages.search.with.method=awq */
};

/* Presets of a peer that none of ours stands for, and why. */
struct qp_preset_absence {
    const char *peer, *names, *reason;
};

/* All presets, ended by a NULL name, all methods, ended by NULL names, and all absences, ended by a NULL peer. Static.
 */
const struct qp_preset *qp_presets(void);
const struct qp_preset_method *qp_preset_methods(void);
const struct qp_preset_absence *qp_preset_absences(void);

/* The mapping of a preset, with its name in it, by any of its names, in any case, "-" and "_" alike. The ending
 * "-kv-fp8" or "-kv-int8" adds a KV cache. A new reference; NULL with `err` described: for a peer's preset that has no
 * equivalent, why. */
json_t *qp_preset_mapping(const char *name, struct qp_error *err);

/* Parses a preset name or alias (JSON string), or a mapping with the keys name, weights, activations, kv_cache, ignore,
 * rules, exact:
 *   weights:     format, then at most one of group (with ragged: true if need be), block ([rows, columns]) and
 *                granularity (channel by default, tensor, block: [128, 128]); symmetric (true by default)
 *   activations: format, dynamic (true by default), granularity (token by default, tensor, group with group: columns);
 *                symmetric. dynamic: false fixes one symmetric range for the tensor (granularity tensor).
 *   kv_cache:    format: fp8_e4m3 or int8; one fixed scale for keys, one for values
 *   rules:       list of {match, weights, activations}
 *   exact:       llm-compressor or modelopt; see enum qp_exact
 *   formats:     int2 ... int8, fp8_e4m3, fp8_e5m2; nvfp4 (groups of 16, group: 32 possible); mxfp4, mxfp6 (E3M2),
 *                mxfp6_e2m3, mxfp8 (E4M3), mxint8 (groups of 32; scale_rule: floor, ceil or even; by default floor for
 *                weights, even for activations); and bf16, fp16, fp32 for "leave it as it is". nvfp4 and mx imply
 *                granularity, symmetric and, for activations, dynamic groups; nvfp4 activations have one static global
 *                scale above their groups. nvfp4 weights may be four_over_six: true, which lets the largest number of a
 *                group become 4 where that loses less than 6 does (arXiv 2512.02010).
 * Unknown keys, wrong types and impossible combinations are QP_ERR_INPUT with the key's path ("scheme.weights.group").
 */
int qp_scheme_parse(const json_t *value, struct qp_scheme **out, struct qp_error *err);
void qp_scheme_free(struct qp_scheme *scheme); /* NULL is accepted */

/* Sets the dtype that scales are stored in: the model's own (BF16, F16, F32), F32 with exact: modelopt. Those of NVFP4
 * and MX have the format's, those of ranges taken at run time are F32. */
void qp_scheme_bind(struct qp_scheme *scheme, enum qp_dtype model_dtype);

/* Whether a pattern of `ignore` matches a module; the first rule that does, QP_NO_MATCH for none. */
bool qp_scheme_ignores(const struct qp_scheme *scheme, const char *module);
size_t qp_scheme_rule_of(const struct qp_scheme *scheme, const char *module);

/* What applies to a module ("model.layers.0.mlp.up_proj"): NULL when it is ignored or left as it is. Borrowed. */
const struct qp_linear_scheme *qp_scheme_for(const struct qp_scheme *scheme, const char *module);

/* What calibration has to find out for a scheme, or for a candidate of its budget: "static", activations with a fixed
 * range (NVFP4's global scale included); "kv_cache", keys and values. */
bool qp_scheme_has(const struct qp_scheme *scheme, const char *word);

/* Whether a number from calibration belongs to a spec: the scale of one fixed range, or NVFP4's global scale above the
 * groups' own. */
bool qp_spec_is_static(const struct qp_quant_spec *spec);
bool qp_spec_has_global(const struct qp_quant_spec *spec);

/* Columns that share a scale in a matrix of `cols` columns, as kernels/quant.h wants it (0: one scale for all). */
int64_t qp_spec_group(const struct qp_quant_spec *spec, int64_t cols);

/* Checks that a scheme can be applied to a linear [rows, cols]: a group, of weights or activations, that does not
 * divide `cols` is QP_ERR_INPUT naming the module and what would work. Blocks may be short at the edges. */
int qp_scheme_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                    struct qp_error *err);

#endif
