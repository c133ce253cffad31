/* A family of models as a table: what config.json leaves unsaid, the names of its modules, and the shape of a layer.
 * graph.c makes the lists of arch.h from it. Each family is a constant in a file of its own (family_NAME.c) and stands
 * in the list of arch.c; docs of every field's meaning are transformers' modeling_NAME.py and configuration_NAME.py. */
#ifndef QUANTPIPE_MODEL_FAMILY_H
#define QUANTPIPE_MODEL_FAMILY_H

#include "libstage/model/arch.h"

/* A module by its name within the layer, in checkpoints and in GGUF; NULL: the layer has none. */
struct qp_module {
    const char *name, *gguf;
};

/* A key of config.json and what counts when it is absent or null; key NULL: always the fallback. */
struct qp_flag {
    const char *key;
    bool fallback;
};
struct qp_number {
    const char *key;
    double fallback; /* 0: off, where that makes sense */
};

/* Which layers have a sliding window, where config.json has no `layer_types`. */
enum qp_window_rule {
    QP_WINDOW_NONE,
    QP_WINDOW_ALL,
    QP_WINDOW_QWEN, /* if `use_sliding_window`, layers from `max_window_layers` on */
};

struct qp_family {
    const char *name;                          /* model_type in config.json: "llama" */
    const char *class_name;                    /* in `architectures`: "LlamaForCausalLM" */
    const char *gguf;                          /* general.architecture */
    const char *block;                         /* printf format of a layer's module name: "model.layers.%d" */
    const char *embedding, *final_norm, *head; /* "model.embed_tokens", "model.norm", "lm_head" */

    enum qp_norm_kind norm;
    struct qp_number norm_eps;
    struct qp_module attn_in, mlp_in; /* norms before attention and before the MLP */
    struct qp_module q_norm, k_norm;  /* of each head, before RoPE */

    struct qp_module q, k, v, o, gate, up, down;
    struct qp_flag qkv_bias, o_bias, mlp_bias;
    int64_t head_dim; /* where config.json does not say; 0: hidden / heads */
    bool permuted;    /* GGUF interleaves the halves of the heads of q and k */

    struct qp_number rope_theta;
    enum qp_window_rule window_rule;
    int64_t window; /* sliding_window where config.json does not say */
    struct qp_flag tied;
};

extern const struct qp_family qp_family_llama, qp_family_mistral, qp_family_qwen2, qp_family_qwen3;

/* All families, ended by NULL. Static. */
const struct qp_family *const *qp_families(void);

/* What config.json says that graph.c needs, checked. */
struct qp_layer_config {
    int64_t hidden, ffn;
    int heads, kv_heads, head_dim;
    float eps;
    bool qkv_bias, o_bias, mlp_bias;
    int64_t window; /* of this layer, 0: none */
    int rope;       /* index into arch->ropes, -1: none */
    enum qp_act act;
};

/* The type of a layer; kept for the life of the process, the same for equal arguments. */
int qp_layer_type_new(const struct qp_family *family, const struct qp_layer_config *config,
                      const struct qp_layer_type **out, struct qp_error *err);

/* The same for a list of them, one a layer. */
int qp_layer_types_keep(int64_t count, const struct qp_layer_type **types, const struct qp_layer_type *const **out,
                        struct qp_error *err);

#endif
