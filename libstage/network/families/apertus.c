#include "libstage/network/families/names.h"

/* Swiss AI 2025: an MLP without gate whose activation has learned numbers, norms of q and k. */
const struct qp_family qp_family_apertus = {
    .name = "apertus",
    .class_name = "ApertusForCausalLM",
    QP_FAMILY_ENDS,
    QP_FAMILY_QKV,
    QP_FAMILY_QK_NORMS,
    .attn_in = {"attention_layernorm", NULL},
    .mlp_in = {"feedforward_layernorm", NULL},
    .norm_eps = {"rms_norm_eps", 1e-5},
    .up = {"mlp.up_proj", NULL},
    .down = {"mlp.down_proj", NULL},
    .act = {"hidden_act", "xielu"},
    .act_parameters = {"mlp.act_fn.alpha_p", "mlp.act_fn.alpha_n", "mlp.act_fn.beta", "mlp.act_fn.eps"},
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .rope_theta = {"rope_theta", 12000000},
    .rope = {.kind = QP_ROPE_LLAMA3,
             .theta = 12000000,
             .factor = 8,
             .low_freq_factor = 1,
             .high_freq_factor = 4,
             .original_length = 8192,
             .attention = 1},
    .tied = {"tie_word_embeddings", false},
};
