#include "libstage/network/families/names.h"

/* Lozhkov et al. 2024: layer norms, an MLP without gate, biases everywhere. */
const struct qp_family qp_family_starcoder2 = {
    .name = "starcoder2",
    .class_name = "Starcoder2ForCausalLM",
    .gguf = "starcoder2",
    QP_FAMILY_ENDS,
    QP_FAMILY_PRE_NORMS,
    QP_FAMILY_QKV,
    .norm = QP_NORM_LAYER,
    .norm_bias = true,
    .norm_eps = {"norm_epsilon", 1e-5},
    .up = {"mlp.c_fc", "ffn_up"},
    .down = {"mlp.c_proj", "ffn_down"},
    .qkv_bias = {"use_bias", true},
    .o_bias = {"use_bias", true},
    .mlp_bias = {"use_bias", true},
    .act = {"hidden_act", "gelu_pytorch_tanh"},
    .window_rule = QP_WINDOW_ALL,
    .tied = {"tie_word_embeddings", true},
    .rope_theta = {"rope_theta", 10000},
};
