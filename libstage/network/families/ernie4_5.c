#include "libstage/network/families/names.h"

/* ERNIE Team, Baidu 2025. */
const struct qp_family qp_family_ernie4_5 = {
    .name = "ernie4_5",
    .class_name = "Ernie4_5ForCausalLM",
    QP_FAMILY_LLAMA,
    .norm_eps = {"rms_norm_eps", 1e-5},
    .qkv_bias = {"use_bias", false},
    .o_bias = {"use_bias", false},
    .mlp_bias = {"use_bias", false},
    .head_dim = 128,
    .rope_pairs = true,
    .rope_theta = {"rope_theta", 500000},
    .tied = {"tie_word_embeddings", true},
    .act = {"hidden_act", "silu"},
};
