#include "libstage/network/families/names.h"

/* Cohere 2024: attention and the MLP read one norm without bias; RoPE by neighbours in layers with a window. */
const struct qp_family qp_family_cohere2 = {
    .name = "cohere2",
    .class_name = "Cohere2ForCausalLM",
    QP_FAMILY_ENDS,
    QP_FAMILY_QKV,
    QP_FAMILY_GATED,
    .norm = QP_NORM_LAYER,
    .norm_eps = {"layer_norm_eps", 1e-5},
    .attn_in = {"input_layernorm", NULL},
    .parallel = true,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .rope_pairs = true,
    .rope_rule = QP_ROPE_SLIDING,
    .window_rule = QP_WINDOW_PATTERN,
    .window = 4096,
    .window_pattern = 4,
    .logit_scale = {"logit_scale", 0.0625},
    .tied = {"tie_word_embeddings", true},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
};
