#include "libstage/network/families/names.h"

/* Touvron et al. 2023; names as in transformers' modeling_llama.py and llama.cpp's LLM_ARCH_LLAMA. */
const struct qp_family qp_family_llama = {
    .name = "llama",
    .class_name = "LlamaForCausalLM",
    .gguf = "llama",
    QP_FAMILY_LLAMA,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .mlp_bias = {"mlp_bias", false},
    .permuted = true,
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
