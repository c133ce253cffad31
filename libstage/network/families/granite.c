#include "libstage/network/families/names.h"

/* Granite Team, IBM 2024: multipliers of embeddings, scores, branches and logits. */
const struct qp_family qp_family_granite = {
    .name = "granite",
    .class_name = "GraniteForCausalLM",
    .gguf = "granite",
    .permuted = true,
    QP_FAMILY_LLAMA,
    .qkv_bias = {"attention_bias", false},
    .o_bias = {"attention_bias", false},
    .mlp_bias = {"mlp_bias", false},
    .embed_scale = {"embedding_multiplier", 1},
    .scale_rule = QP_SCALE_VALUE,
    .scale = {"attention_multiplier", 1},
    .residual_scale = {"residual_multiplier", 1},
    .logit_divisor = {"logits_scaling", 1},
    .norm_eps = {"rms_norm_eps", 1e-6},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
