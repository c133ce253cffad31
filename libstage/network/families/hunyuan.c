#include "libstage/network/families/names.h"

/* Tencent Hunyuan Team 2025: norms of q and k after RoPE. */
const struct qp_family qp_family_hunyuan = {
    .name = "hunyuan_v1_dense",
    .class_name = "HunYuanDenseV1ForCausalLM",
    QP_FAMILY_LLAMA,
    .norm_eps = {"rms_norm_eps", 1e-5},
    .q_norm = {"self_attn.query_layernorm", NULL},
    .k_norm = {"self_attn.key_layernorm", NULL},
    .qk_norm = QP_QK_NORM_AFTER_ROPE,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
