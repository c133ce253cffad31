#include "libstage/model/family_llama.h"

/* Touvron et al. 2023; names as in transformers' modeling_llama.py and llama.cpp's LLM_ARCH_LLAMA. */
#define LLAMA_BLOCK                                                                                               \
    .block = "model.layers.%d", .embedding = "model.embed_tokens", .final_norm = "model.norm", .head = "lm_head", \
    .linears =                                                                                                    \
        {                                                                                                         \
            [QP_Q] = {"self_attn.q_proj", "attn_q", QP_SITE_ATTN_IN, QP_DIM_Q, QP_DIM_HIDDEN, true},              \
            [QP_K] = {"self_attn.k_proj", "attn_k", QP_SITE_ATTN_IN, QP_DIM_KV, QP_DIM_HIDDEN, true},             \
            [QP_V] = {"self_attn.v_proj", "attn_v", QP_SITE_ATTN_IN, QP_DIM_KV, QP_DIM_HIDDEN, false},            \
            [QP_O] = {"self_attn.o_proj", "attn_output", QP_SITE_ATTN_OUT, QP_DIM_HIDDEN, QP_DIM_Q, false},       \
            [QP_GATE] = {"mlp.gate_proj", "ffn_gate", QP_SITE_MLP_IN, QP_DIM_FFN, QP_DIM_HIDDEN, false},          \
            [QP_UP] = {"mlp.up_proj", "ffn_up", QP_SITE_MLP_IN, QP_DIM_FFN, QP_DIM_HIDDEN, false},                \
            [QP_DOWN] = {"mlp.down_proj", "ffn_down", QP_SITE_MLP_OUT, QP_DIM_HIDDEN, QP_DIM_FFN, false},         \
    },                                                                                                            \
    .sites =                                                                                                      \
        {                                                                                                         \
            [QP_SITE_ATTN_IN] = {"attn_in", QP_DIM_HIDDEN, QP_FOLD_NORM, QP_NORM_ATTN},                           \
            [QP_SITE_ATTN_OUT] = {"attn_out", QP_DIM_Q, QP_FOLD_ROWS, QP_V},                                      \
            [QP_SITE_MLP_IN] = {"mlp_in", QP_DIM_HIDDEN, QP_FOLD_NORM, QP_NORM_MLP},                              \
            [QP_SITE_MLP_OUT] = {"mlp_out", QP_DIM_FFN, QP_FOLD_ROWS, QP_UP},                                     \
    },                                                                                                            \
    .norms = {                                                                                                    \
        [QP_NORM_ATTN] = {"input_layernorm", "attn_norm"},                                                        \
        [QP_NORM_MLP] = {"post_attention_layernorm", "ffn_norm"},                                                 \
    }

const struct qp_family qp_family_llama = {
    .name = "llama", .class_name = "LlamaForCausalLM", .gguf = "llama", LLAMA_BLOCK};

/* Jiang et al. 2023: Llama's block with windowed attention. GGUF calls it llama as well. */
const struct qp_family qp_family_mistral = {
    .name = "mistral", .class_name = "MistralForCausalLM", .gguf = "llama", .window = 4096, LLAMA_BLOCK};
