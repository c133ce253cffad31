#include "libstage/network/families/names.h"

/* Hugging Face 2025: every fourth layer does not rotate. */
const struct qp_family qp_family_smollm3 = {
    .name = "smollm3",
    .class_name = "SmolLM3ForCausalLM",
    .gguf = "smollm3",
    .permuted = true,
    QP_FAMILY_LLAMA,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .mlp_bias = {"mlp_bias", false},
    .rope_theta = {"rope_theta", 2000000},
    .rope_rule = QP_ROPE_LISTED,
    .tied = {"tie_word_embeddings", true},
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
};
