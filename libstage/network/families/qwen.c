#include "libstage/network/families/names.h"

/* Yang et al. 2024: biases of q, k and v alone. */
const struct qp_family qp_family_qwen2 = {
    .name = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .gguf = "qwen2",
    QP_FAMILY_LLAMA,
    .qkv_bias = {NULL, true},
    .window_rule = QP_WINDOW_QWEN,
    .window = 4096,
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};

/* Qwen Team 2025: norms of q and k, head by head. */
const struct qp_family qp_family_qwen3 = {
    .name = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .gguf = "qwen3",
    QP_FAMILY_LLAMA,
    QP_FAMILY_QK_NORMS,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .head_dim = 128,
    .window_rule = QP_WINDOW_QWEN,
    .window = 4096,
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
