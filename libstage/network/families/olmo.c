#include "libstage/network/families/names.h"

/* OLMo Team 2024: norms after attention and the MLP alone, of q and k over all heads. */
#define OLMO                                                                                            \
    QP_FAMILY_ENDS, QP_FAMILY_QKV, QP_FAMILY_GATED, QP_FAMILY_QK_NORMS, QP_FAMILY_POST_NORMS,           \
        .norm_eps = {"rms_norm_eps", 1e-5}, .act = {"hidden_act", "silu"}, .qk_norm = QP_QK_NORM_WIDTH, \
        .qkv_bias = {"attention_bias", false}, .o_bias = {"attention_bias", false},                     \
        .tied = {"tie_word_embeddings", false}

const struct qp_family qp_family_olmo2 = {
    .name = "olmo2", .class_name = "Olmo2ForCausalLM", .gguf = "olmo2", OLMO, .rope_theta = {"rope_theta", 10000}};

/* OLMo Team 2025: the same with windows in three of four layers. */
const struct qp_family qp_family_olmo3 = {
    .name = "olmo3",
    .class_name = "Olmo3ForCausalLM",
    OLMO,
    .rope_theta = {"rope_theta", 500000},
    .window_rule = QP_WINDOW_PATTERN,
    .window = 4096,
    .window_pattern = 4,
};
