#include "libstage/network/families/names.h"

/* ByteDance Seed 2025. */
const struct qp_family qp_family_seed_oss = {
    .name = "seed_oss",
    .class_name = "SeedOssForCausalLM",
    QP_FAMILY_LLAMA,
    .qkv_bias = {"attention_bias", true},
    .o_bias = {"attention_out_bias", false},
    .mlp_bias = {"mlp_bias", false},
    .head_dim = 128,
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
