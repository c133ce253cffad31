#include "libstage/network/families/names.h"

/* Gemma Team 2024: gains are 1 + weight, embeddings are multiplied with the root of their width. */
#define GEMMA                                                                                     \
    QP_FAMILY_ENDS, QP_FAMILY_QKV, QP_FAMILY_GATED,                                               \
        .norm_eps = {"rms_norm_eps", 1e-6}, .norm_offset = 1, .embed_sqrt = true,                 \
        .act = {"hidden_activation", "gelu_pytorch_tanh"}, .qkv_bias = {"attention_bias", false}, \
        .o_bias = {"attention_bias", false}, .head_dim = 256, .tied = {"tie_word_embeddings", true}

/* From Gemma 2 on: norms around attention and the MLP, windows, scores by a number of config.json. */
#define GEMMA_2                                                                               \
    GEMMA, .attn_in = {"input_layernorm", "attn_norm"}, QP_FAMILY_POST_NORMS,                 \
           .mlp_in = {"pre_feedforward_layernorm", "ffn_norm"}, .scale_rule = QP_SCALE_RSQRT, \
           .scale = {"query_pre_attn_scalar", 256}, .window_rule = QP_WINDOW_PATTERN, .window = 4096

const struct qp_family qp_family_gemma = {
    .name = "gemma",
    .class_name = "GemmaForCausalLM",
    .gguf = "gemma",
    GEMMA,
    QP_FAMILY_PRE_NORMS,
    .rope_theta = {"rope_theta", 10000},
};

/* Gemma Team 2024b: capped scores and logits, a window in every other layer. */
const struct qp_family qp_family_gemma2 = {
    .name = "gemma2",
    .class_name = "Gemma2ForCausalLM",
    .gguf = "gemma2",
    GEMMA_2,
    .gguf_wide_layers = 46, /* 27B */
    .window_pattern = 2,
    .attn_cap = {"attn_logit_softcapping", 50},
    .logit_cap = {"final_logit_softcapping", 30},
    .rope_theta = {"rope_theta", 10000},
};

/* Gemma Team 2025: norms of q and k in place of capped scores, five layers with a window and a theta of their own for
 * each one without. */
const struct qp_family qp_family_gemma3 = {
    .name = "gemma3_text",
    .class_name = "Gemma3ForCausalLM",
    .gguf = "gemma3",
    GEMMA_2,
    QP_FAMILY_QK_NORMS,
    .heads = 8,
    .kv_heads = 4,
    .vocab = 262208,
    .max_length = 131072,
    .gguf_wide_layers = 62, /* 27B */
    .window_pattern = 6,
    .logit_cap = {"final_logit_softcapping", 0},
    .rope_theta = {"rope_theta", 1000000},
    .rope_theta_sliding = {"rope_local_base_freq", 10000},
};
