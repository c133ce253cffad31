#include "libstage/network/families/names.h"

/* LG AI Research 2025: OLMo 2's norms, of q and k head by head; with windows, RoPE in the layers that have one alone.
 */
const struct qp_family qp_family_exaone4 = {
    .name = "exaone4",
    .class_name = "Exaone4ForCausalLM",
    .gguf = "exaone4",
    QP_FAMILY_ENDS,
    QP_FAMILY_QKV,
    QP_FAMILY_GATED,
    QP_FAMILY_QK_NORMS,
    .norm_eps = {"rms_norm_eps", 1e-5},
    QP_FAMILY_POST_NORMS,
    .rope_rule = QP_ROPE_SLIDING,
    .window_rule = QP_WINDOW_PATTERN,
    .window = 4096,
    .window_pattern = 4,
    .act = {"hidden_act", "silu"},
    .rope_theta = {"rope_theta", 10000},
    .tied = {"tie_word_embeddings", false},
};
