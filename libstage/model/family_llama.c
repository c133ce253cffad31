#include "libstage/model/family.h"

/* Touvron et al. 2023; names as in transformers' modeling_llama.py and llama.cpp's LLM_ARCH_LLAMA. */
#define LLAMA_NAMES                                                                                                   \
    .block = "model.layers.%d", .embedding = "model.embed_tokens", .final_norm = "model.norm", .head = "lm_head",     \
    .norm_eps = {"rms_norm_eps", 1e-6}, .attn_in = {"input_layernorm", "attn_norm"},                                  \
    .mlp_in = {"post_attention_layernorm", "ffn_norm"}, .q = {"self_attn.q_proj", "attn_q"},                          \
    .k = {"self_attn.k_proj", "attn_k"}, .v = {"self_attn.v_proj", "attn_v"},                                         \
    .o = {"self_attn.o_proj", "attn_output"}, .gate = {"mlp.gate_proj", "ffn_gate"}, .up = {"mlp.up_proj", "ffn_up"}, \
    .down = {"mlp.down_proj", "ffn_down"}, .rope_theta = {"rope_theta", 10000}, .tied = {"tie_word_embeddings", false}

const struct qp_family qp_family_llama = {
    .name = "llama",
    .class_name = "LlamaForCausalLM",
    .gguf = "llama",
    LLAMA_NAMES,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .mlp_bias = {"mlp_bias", false},
    .permuted = true,
};

/* Jiang et al. 2023: Llama's block with windowed attention. GGUF calls it llama as well. */
const struct qp_family qp_family_mistral = {
    .name = "mistral",
    .class_name = "MistralForCausalLM",
    .gguf = "llama",
    LLAMA_NAMES,
    .permuted = true,
    .window_rule = QP_WINDOW_ALL,
    .window = 4096,
};

/* Yang et al. 2024: biases of q, k and v alone. */
const struct qp_family qp_family_qwen2 = {
    .name = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .gguf = "qwen2",
    LLAMA_NAMES,
    .qkv_bias = {NULL, true},
    .window_rule = QP_WINDOW_QWEN,
    .window = 4096,
};

/* Qwen Team 2025: norms of q and k, head by head. */
const struct qp_family qp_family_qwen3 = {
    .name = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .gguf = "qwen3",
    LLAMA_NAMES,
    .q_norm = {"self_attn.q_norm", "attn_q_norm"},
    .k_norm = {"self_attn.k_norm", "attn_k_norm"},
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .head_dim = 128,
    .window_rule = QP_WINDOW_QWEN,
    .window = 4096,
};
