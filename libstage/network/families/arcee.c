#include "libstage/network/families/names.h"

/* Arcee AI 2025: an MLP without gate whose activation is a squared ReLU. */
const struct qp_family qp_family_arcee = {
    .name = "arcee",
    .class_name = "ArceeForCausalLM",
    QP_FAMILY_ENDS,
    QP_FAMILY_PRE_NORMS,
    QP_FAMILY_QKV,
    .norm_eps = {"rms_norm_eps", 1e-5},
    .up = {"mlp.up_proj", "ffn_up"},
    .down = {"mlp.down_proj", "ffn_down"},
    .act = {"hidden_act", "relu2"},
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .mlp_bias = {"mlp_bias", false},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
