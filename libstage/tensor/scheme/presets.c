#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/words.h"
#include "libstage/tensor/scheme/scheme.h"

/* Numbers: compressed-tensors 0.20, quant_scheme.py; NVIDIA Model Optimizer 0.47, modelopt/torch/quantization/config.
 */

#define W(spec) "{\"weights\": {" spec "}}"
#define WA(weights, activations) "{\"weights\": {" weights "}, \"activations\": {" activations "}}"
#define ON(match, spec) "{\"match\": \"" match "\", \"weights\": {" spec "}}"
#define BOTH(match, spec) "{\"match\": \"" match "\", \"weights\": {" spec "}, \"activations\": {" spec "}}"
#define RULES(rules) "{\"rules\": [" rules "]}"

#define F(format) "\"format\": \"" format "\""
#define G128(format) F(format) ", \"group\": 128"
#define CHANNEL(format) F(format) ", \"granularity\": \"channel\""
#define TENSOR(format) F(format) ", \"granularity\": \"tensor\""
#define TOKEN(format) F(format) ", \"granularity\": \"token\", \"dynamic\": true"
#define STATIC(format) F(format) ", \"granularity\": \"tensor\", \"dynamic\": false"
#define BLOCK(format) F(format) ", \"block\": [128, 128]"

static const struct qp_preset presets[] = {
    {"int2", "INT2 weights in groups of 128", "W2A16", "", W(G128("int2"))},
    {"int3", "INT3 weights in groups of 128", "W3A16", "", W(G128("int3"))},
    {"int4", "INT4 weights in groups of 128", "W4A16", "int4_blockwise_weight_only, INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
     W(G128("int4"))},
    {"int4-asym", "INT4 weights in groups of 128 with zero points", "W4A16_ASYM", "",
     W(G128("int4") ", \"symmetric\": false")},
    {"int5", "INT5 weights in groups of 128", "W5A16", "", W(G128("int5"))},
    {"int6", "INT6 weights in groups of 128", "W6A16", "", W(G128("int6"))},
    {"int7", "INT7 weights in groups of 128", "W7A16", "", W(G128("int7"))},
    {"int8", "INT8 weights per channel, INT8 activations per token", "W8A8, INT8", "",
     WA(CHANNEL("int8"), TOKEN("int8"))},
    {"int8-static", "INT8 weights per channel, INT8 activations with fixed ranges", "", "INT8_DEFAULT_CFG",
     WA(CHANNEL("int8"), STATIC("int8"))},
    {"int8-weight-only", "INT8 weights per channel", "", "int8_weight_only, int8_wo, INT8_WEIGHT_ONLY_CFG",
     W(CHANNEL("int8"))},
    {"int8-group", "INT8 weights in groups of 128", "W8A16", "", W(G128("int8"))},
    {"w2a4", "INT2 weights in groups of 128, INT4 activations per token", "W2A4", "", WA(G128("int2"), TOKEN("int4"))},
    {"w3a4", "INT3 weights in groups of 128, INT4 activations per token", "W3A4", "", WA(G128("int3"), TOKEN("int4"))},
    {"w4a4", "INT4 weights in groups of 128, INT4 activations per token", "W4A4", "", WA(G128("int4"), TOKEN("int4"))},
    {"w2a8", "INT2 weights in groups of 128, INT8 activations per token", "W2A8", "", WA(G128("int2"), TOKEN("int8"))},
    {"w3a8", "INT3 weights in groups of 128, INT8 activations per token", "W3A8", "", WA(G128("int3"), TOKEN("int8"))},
    {"w4a8", "INT4 weights in groups of 128, INT8 activations per token", "W4A8", "", WA(G128("int4"), TOKEN("int8"))},
    {"w5a8", "INT5 weights in groups of 128, INT8 activations per token", "W5A8", "", WA(G128("int5"), TOKEN("int8"))},
    {"w6a8", "INT6 weights in groups of 128, INT8 activations per token", "W6A8", "", WA(G128("int6"), TOKEN("int8"))},
    {"w7a8", "INT7 weights in groups of 128, INT8 activations per token", "W7A8", "", WA(G128("int7"), TOKEN("int8"))},
    {"w4afp8", "INT4 weights in groups of 128, FP8 E4M3 activations per token", "W4AFP8", "",
     WA(G128("int4"), TOKEN("fp8_e4m3"))},
    {"w4afp8-static", "INT4 weights in groups of 128, FP8 E4M3 activations with fixed ranges", "", "",
     WA(G128("int4"), STATIC("fp8_e4m3"))},
    {"fp8", "FP8 E4M3 weights per tensor, FP8 E4M3 activations with fixed ranges", "FP8",
     "fp8, fp8_default, FP8_DEFAULT_CFG", WA(TENSOR("fp8_e4m3"), STATIC("fp8_e4m3"))},
    {"fp8-dynamic", "FP8 E4M3 weights per channel, FP8 E4M3 activations per token", "FP8_DYNAMIC",
     "fp8_per_channel_per_token, fp8_pc_pt, FP8_PER_CHANNEL_PER_TOKEN_CFG", WA(CHANNEL("fp8_e4m3"), TOKEN("fp8_e4m3"))},
    {"fp8-block", "FP8 E4M3 weights in blocks of 128x128, FP8 E4M3 activations in groups of 128", "FP8_BLOCK", "",
     WA(BLOCK("fp8_e4m3"), G128("fp8_e4m3"))},
    {"fp8-block-weight-only", "FP8 E4M3 weights in blocks of 128x128", "",
     "fp8_2d_blockwise_weight_only, fp8_pb_wo, FP8_2D_BLOCKWISE_WEIGHT_ONLY_CFG", W(BLOCK("fp8_e4m3"))},
    {"nvfp4", "NVFP4 weights and activations", "NVFP4", "nvfp4, nvfp4_default, NVFP4_DEFAULT_CFG",
     WA(F("nvfp4"), F("nvfp4"))},
    {"nvfp4-weight-only", "NVFP4 weights", "NVFP4A16", "w4a16_nvfp4, W4A16_NVFP4_CFG", W(F("nvfp4"))},
    {"nvfp4-fp8", "NVFP4 weights in groups of 32, FP8 E4M3 activations with fixed ranges", "",
     "w4a8_nvfp4_fp8, W4A8_NVFP4_FP8_CFG", WA(F("nvfp4") ", \"group\": 32", STATIC("fp8_e4m3"))},
    {"nvfp4-mlp-only", "NVFP4 weights and activations in the MLPs", "", "nvfp4_mlp_only, NVFP4_MLP_ONLY_CFG",
     RULES(BOTH("*mlp*", F("nvfp4")) ", " BOTH("*block_sparse_moe*", F("nvfp4")) ", " BOTH("*.experts.*", F("nvfp4")))},
    {"nvfp4-experts-only", "NVFP4 weights and activations in the experts of a mixture", "",
     "nvfp4_experts_only, NVFP4_EXPERTS_ONLY_CFG",
     RULES(BOTH("*block_sparse_moe*", F("nvfp4")) ", " BOTH("*.experts.*", F("nvfp4")))},
    {"nvfp4-omlp-only", "NVFP4 weights and activations in the MLPs and o_proj", "",
     "nvfp4_omlp_only, NVFP4_OMLP_ONLY_CFG",
     RULES(BOTH("*mlp*", F("nvfp4")) ", " BOTH("*block_sparse_moe*", F("nvfp4")) ", " BOTH("*o_proj*", F("nvfp4")))},
    {"nvfp4-mlp-weight-only", "NVFP4 weights in groups of 32 in the MLPs", "",
     "nvfp4_mlp_weight_only, nvfp4_mlp_wo, NVFP4_MLP_WEIGHT_ONLY_CFG",
     RULES(ON("*mlp*", F("nvfp4") ", \"group\": 32") ", " ON("*block_sparse_moe*", F("nvfp4") ", \"group\": 32"))},
    {"nvfp4-4over6", "NVFP4 weights, the largest of a group 4 or 6, and NVFP4 activations", "", "",
     WA(F("nvfp4") ", \"four_over_six\": true", F("nvfp4"))},
    {"mxfp4", "MXFP4 weights and activations", "MXFP4", "mxfp4, MXFP4_DEFAULT_CFG", WA(F("mxfp4"), F("mxfp4"))},
    {"mxfp4-weight-only", "MXFP4 weights", "MXFP4A16", "", W(F("mxfp4"))},
    {"mxfp4-fp8", "MXFP4 weights, FP8 E4M3 activations in groups of 128", "MXFP4XFP8", "",
     WA(F("mxfp4"), G128("fp8_e4m3"))},
    {"mxfp4-fp8-static", "MXFP4 weights, FP8 E4M3 activations with fixed ranges", "",
     "w4a8_mxfp4_fp8, W4A8_MXFP4_FP8_CFG", WA(F("mxfp4"), STATIC("fp8_e4m3"))},
    {"mxfp4-mlp-weight-only", "MXFP4 weights in the MLPs", "",
     "mxfp4_mlp_weight_only, mxfp4_mlp_wo, MXFP4_MLP_WEIGHT_ONLY_CFG",
     RULES(ON("*mlp*", F("mxfp4")) ", " ON("*block_sparse_moe*", F("mxfp4")))},
    {"mxfp6", "MXFP6 (E3M2) weights and activations", "", "mxfp6, MXFP6_DEFAULT_CFG", WA(F("mxfp6"), F("mxfp6"))},
    {"mxfp6-weight-only", "MXFP6 (E2M3) weights", "MXFP6A16", "", W(F("mxfp6_e2m3"))},
    {"mxfp6-mxfp8", "MXFP6 (E2M3) weights, MXFP8 activations", "MXFP6A8", "", WA(F("mxfp6_e2m3"), F("mxfp8"))},
    {"mxfp8", "MXFP8 (E4M3) weights and activations", "MXFP8", "mxfp8, MXFP8_DEFAULT_CFG", WA(F("mxfp8"), F("mxfp8"))},
    {"mxfp8-weight-only", "MXFP8 (E4M3) weights", "MXFP8A16", "", W(F("mxfp8"))},
    {"mxint8", "MXINT8 weights and activations", "", "mxint8, MXINT8_DEFAULT_CFG", WA(F("mxint8"), F("mxint8"))},
    {NULL, NULL, NULL, NULL, NULL},
};

/* modelopt's algorithms: awq_lite, awq_clip, awq_full, smoothquant, mse, local_hessian, gptq over rounding to nearest.
 */
#define RTN " quantize.method=rtn"
#define AWQ(clip) "search.method=awq search.form=duo search.clip=" clip RTN

static const struct qp_preset_method methods[] = {
    {"int4_awq, INT4_AWQ_CFG", "int4", AWQ("false") " quantize.scales=minmax"},
    {"int8_smoothquant, int8_sq, INT8_SMOOTHQUANT_CFG", "int8-static",
     "smooth.method=smoothquant smooth.alpha=1.0" RTN " quantize.scales=minmax"},
    {"w4a8_awq_beta, w4a8_awq, W4A8_AWQ_BETA_CFG", "w4afp8-static", AWQ("false") " quantize.scales=minmax"},
    {"nvfp4_awq, nvfp4_awq_lite, NVFP4_AWQ_LITE_CFG", "nvfp4", AWQ("false") " quantize.scales=minmax"},
    {"nvfp4_awq_clip, NVFP4_AWQ_CLIP_CFG", "nvfp4", "search.method=clip" RTN},
    {"nvfp4_awq_full, NVFP4_AWQ_FULL_CFG", "nvfp4", AWQ("true")},
    {"nvfp4_mse, nvfp4_w4a4_weight_mse_fp8_sweep, NVFP4_W4A4_WEIGHT_MSE_FP8_SWEEP_CFG", "nvfp4",
     "search.method=none" RTN " quantize.scales=mse quantize.norm=2"},
    {"nvfp4_local_hessian, nvfp4_w4a4_weight_local_hessian, NVFP4_W4A4_WEIGHT_LOCAL_HESSIAN_CFG", "nvfp4",
     "search.method=none" RTN " quantize.scales=hessian"},
    {"nvfp4_four_over_six, NVFP4_FOUR_OVER_SIX_CFG", "nvfp4-4over6",
     "search.method=none" RTN " quantize.scales=minmax"},
    {"nvfp4_default_kv_none_gptq", "nvfp4", "search.method=none quantize.method=gptq quantize.order=natural"},
    {"nvfp4_act_headroom", "nvfp4",
     "search.method=none" RTN " quantize.scales=minmax quantize.activation_headroom=16384"},
    {NULL, NULL, NULL},
};

static const struct qp_preset_absence absences[] = {
    {"llm-compressor", "UNQUANTIZED", "it quantizes nothing"},
    {"modelopt", "FP8_KV_CFG", "a KV cache belongs to a scheme: -kv-fp8 after its name adds one, as in fp8-kv-fp8"},
    {"modelopt", "NVFP4_KV_CFG, NVFP4_KV_ROTATE_CFG",
     "KV caches are FP8 or INT8, which the compressed-tensors layout has scales for: -kv-fp8, -kv-int8"},
    {"modelopt", "FP8_AFFINE_KV_CFG, NVFP4_AFFINE_KV_CFG",
     "the compressed-tensors layout has no place for the bias of a KV cache: -kv-fp8 is without one"},
    {"modelopt", "NVFP4_SVDQUANT_DEFAULT_CFG",
     "the compressed-tensors layout has no place for the two factors beside a matrix"},
    {"modelopt", "NVFP4_FP8_MHA_CONFIG, nvfp4_fp8_mha",
     "it quantizes the products inside attention, for diffusion networks; nvfp4-kv-fp8 is the nearest"},
    {"modelopt",
     "MAMBA_MOE_FP8_AGGRESSIVE_CFG, MAMBA_MOE_FP8_CONSERVATIVE_CFG, MAMBA_MOE_NVFP4_AGGRESSIVE_CFG, "
     "MAMBA_MOE_NVFP4_CONSERVATIVE_CFG",
     "networks with Mamba layers cannot be loaded yet"},
    {NULL, NULL, NULL},
};

static const struct {
    const char *ending, *kv_cache;
} endings[] = {{"-kv-fp8", "fp8_e4m3"}, {"-kv-int8", "int8"}};

const struct qp_preset *qp_presets(void)
{
    return presets;
}

const struct qp_preset_method *qp_preset_methods(void)
{
    return methods;
}

const struct qp_preset_absence *qp_preset_absences(void)
{
    return absences;
}

static bool same_letter(char a, char b)
{
    return tolower((unsigned char)a) == tolower((unsigned char)b) || ((a == '-' || a == '_') && (b == '-' || b == '_'));
}

static bool same(const char *a, const char *b, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!same_letter(a[i], b[i]))
            return false;
    return true;
}

/* Whether the `length` letters at `name` are one of `names`. */
static bool among(const char *names, const char *name, size_t length)
{
    for (const char *p = names; *p; p += strcspn(p, ", "), p += strspn(p, ", "))
        if (strcspn(p, ", ") == length && same(p, name, length))
            return true;
    return false;
}

static const struct qp_preset *find(const char *name, size_t length)
{
    for (const struct qp_preset *p = presets; p->name; p++)
        if (among(p->name, name, length) || among(p->llm_compressor, name, length) || among(p->modelopt, name, length))
            return p;
    for (const struct qp_preset_method *m = methods; m->names; m++)
        if (among(m->names, name, length))
            return find(m->preset, strlen(m->preset));
    return NULL;
}

/* The format of the KV cache that the ending of `name` asks for, NULL without one; *length is that of the rest. */
static const char *kv_format(const char *name, size_t *length)
{
    *length = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t n = strlen(endings[i].ending);
        if (*length > n && same(name + *length - n, endings[i].ending, n)) {
            *length -= n;
            return endings[i].kv_cache;
        }
    }
    return NULL;
}

static json_t *unknown(const char *name, struct qp_error *err)
{
    for (const struct qp_preset_absence *a = absences; a->peer; a++)
        if (among(a->names, name, strlen(name))) {
            qp_fail(err, QP_ERR_INPUT, "scheme: %s's preset %s has no equivalent: %s", a->peer, name, a->reason);
            return NULL;
        }
    const char *known[sizeof presets / sizeof *presets] = {NULL};
    for (size_t i = 0; presets[i].name; i++)
        known[i] = presets[i].name;
    qp_fail_unknown(err, QP_ERR_INPUT, "scheme", "preset", name, known);
    return NULL;
}

json_t *qp_preset_mapping(const char *name, struct qp_error *err)
{
    char full[64];
    size_t length;
    const char *kv = kv_format(name, &length);
    const struct qp_preset *preset = find(name, length);
    if (!preset)
        return unknown(name, err);
    snprintf(full, sizeof full, "%s%s", preset->name, kv ? strcmp(kv, "int8") == 0 ? "-kv-int8" : "-kv-fp8" : "");
    json_t *mapping = json_loads(preset->mapping, 0, NULL);
    if (mapping && json_object_set_new(mapping, "name", json_string(full)) == 0 &&
        json_object_set_new(mapping, "ignore", json_pack("[s]", "lm_head")) == 0 &&
        (!kv || json_object_set_new(mapping, "kv_cache", json_pack("{s:s}", "format", kv)) == 0))
        return mapping;
    json_decref(mapping);
    qp_fail_memory(err, strlen(preset->mapping), "the scheme");
    return NULL;
}
