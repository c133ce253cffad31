/* What most families share with Llama (Touvron et al. 2023): the names of its modules, and their GGUF names. */
#ifndef QUANTPIPE_NETWORK_FAMILY_NAMES_H
#define QUANTPIPE_NETWORK_FAMILY_NAMES_H

#include "libstage/network/families/family.h"

#define QP_FAMILY_ENDS \
    .block = "model.layers.%d", .embedding = "model.embed_tokens", .final_norm = "model.norm", .head = "lm_head"

#define QP_FAMILY_QKV                                                                                              \
    .q = {"self_attn.q_proj", "attn_q"}, .k = {"self_attn.k_proj", "attn_k"}, .v = {"self_attn.v_proj", "attn_v"}, \
    .o = {"self_attn.o_proj", "attn_output"}

#define QP_FAMILY_GATED \
    .gate = {"mlp.gate_proj", "ffn_gate"}, .up = {"mlp.up_proj", "ffn_up"}, .down = {"mlp.down_proj", "ffn_down"}

#define QP_FAMILY_PRE_NORMS \
    .attn_in = {"input_layernorm", "attn_norm"}, .mlp_in = {"post_attention_layernorm", "ffn_norm"}

#define QP_FAMILY_QK_NORMS .q_norm = {"self_attn.q_norm", "attn_q_norm"}, .k_norm = {"self_attn.k_norm", "attn_k_norm"}

#define QP_FAMILY_POST_NORMS                                         \
    .attn_out = {"post_attention_layernorm", "post_attention_norm"}, \
    .mlp_out = {"post_feedforward_layernorm", "post_ffw_norm"}

#define QP_FAMILY_LLAMA QP_FAMILY_ENDS, QP_FAMILY_QKV, QP_FAMILY_GATED, QP_FAMILY_PRE_NORMS

#endif
