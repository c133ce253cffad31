#include "libstage/network/families/names.h"

/* GLM Team 2024: half of each head is rotated, by neighbours. */
#define GLM                                                                                                         \
    QP_FAMILY_ENDS, QP_FAMILY_PRE_NORMS, QP_FAMILY_QKV,                                                             \
        .norm_eps = {"rms_norm_eps", 1.5625e-7}, .gate_up = {"mlp.gate_up_proj", "ffn_up"},                         \
        .down = {"mlp.down_proj", "ffn_down"}, .act = {"hidden_act", "silu"}, .qkv_bias = {"attention_bias", true}, \
        .head_dim = 128, .rope_theta = {"rope_theta", 10000}, .rope_pairs = true, .rotary = 0.5,                    \
        .tied = {"tie_word_embeddings", false}

const struct qp_family qp_family_glm = {.name = "glm", .class_name = "GlmForCausalLM", GLM};

/* The same with norms after attention and the MLP. */
const struct qp_family qp_family_glm4 = {
    .name = "glm4",
    .class_name = "Glm4ForCausalLM",
    .gguf = "glm4",
    GLM,
    .attn_out = {"post_self_attn_layernorm", "post_attention_norm"},
    .mlp_out = {"post_mlp_layernorm", "post_ffw_norm"},
};
