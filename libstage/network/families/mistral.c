#include "libstage/network/families/names.h"

/* Jiang et al. 2023: Llama's layer with windowed attention. GGUF calls it llama as well. */
const struct qp_family qp_family_mistral = {
    .name = "mistral",
    .class_name = "MistralForCausalLM",
    .gguf = "llama",
    QP_FAMILY_LLAMA,
    .permuted = true,
    .window_rule = QP_WINDOW_ALL,
    .window = 4096,
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
