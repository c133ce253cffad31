#include "libstage/network/families/names.h"

/* Abdin et al. 2024: q, k and v in the rows of one matrix, gate and up in those of another. */
const struct qp_family qp_family_phi3 = {
    .name = "phi3",
    .class_name = "Phi3ForCausalLM",
    .gguf = "phi3",
    QP_FAMILY_ENDS,
    QP_FAMILY_PRE_NORMS,
    .norm_eps = {"rms_norm_eps", 1e-5},
    .qkv = {"self_attn.qkv_proj", "attn_qkv"},
    .o = {"self_attn.o_proj", "attn_output"},
    .gate_up = {"mlp.gate_up_proj", "ffn_up"},
    .down = {"mlp.down_proj", "ffn_down"},
    .window_rule = QP_WINDOW_ALL,
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
