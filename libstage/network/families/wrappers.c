#include "libstage/network/families/family.h"

/* As transformers has a text part's modules in memory since version 4.52, and as checkpoints name their tensors. */
#define WRAPPED_TEXT                                                                                         \
    .block = "model.language_model.layers.%d", .embedding = "model.language_model.embed_tokens",             \
    .final_norm = "model.language_model.norm", .head = "lm_head",                                            \
    .stored = {{"model.language_model.", "language_model.model."}, {"lm_head.", "language_model.lm_head."}}, \
    .ignore = {"re:.*vision_tower.*", "re:.*multi_modal_projector.*"}

static const struct qp_wrapper gemma3 = {
    .name = "gemma3", .class_name = "Gemma3ForConditionalGeneration", WRAPPED_TEXT};

/* Of Mistral Small 3.1 and later, and of Ministral 3. */
static const struct qp_wrapper mistral3 = {
    .name = "mistral3", .class_name = "Mistral3ForConditionalGeneration", WRAPPED_TEXT};

const struct qp_wrapper *const *qp_wrappers(void)
{
    static const struct qp_wrapper *const wrappers[] = {&gemma3, &mistral3, NULL};
    return wrappers;
}
