#include "libstage/network/families/names.h"

/* Mistral AI 2025: Mistral's layer with YaRN; queries grow with each stretch of original_max_position_embeddings. */
const struct qp_family qp_family_ministral3 = {
    .name = "ministral3",
    .class_name = "Ministral3ForCausalLM",
    QP_FAMILY_LLAMA,
    .head_dim = 128,
    .window_rule = QP_WINDOW_ALL,
    .norm_eps = {"rms_norm_eps", 1e-5},
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .rope = {.kind = QP_ROPE_YARN,
             .theta = 1e6,
             .factor = 16,
             .original_length = 16384,
             .beta_fast = 32,
             .beta_slow = 1,
             .truncate = true,
             .attention = 1,
             .temper = 0.1},
    .query_temper = {"llama_4_scaling_beta", 0},
    .tied = {"tie_word_embeddings", false},
};
