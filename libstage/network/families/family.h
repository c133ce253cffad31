/* A family of models as a table: what config.json leaves unsaid, the names of its modules, and the shape of a layer.
 * graph.c makes the lists of arch.h from it. Each family is a constant in a file family_NAME.c and stands in the list
 * of arch.c; a field that is not set is what Llama does without. Facts: transformers' modeling_NAME.py and
 * configuration_NAME.py. */
#ifndef QUANTPIPE_NETWORK_FAMILY_H
#define QUANTPIPE_NETWORK_FAMILY_H

#include "libstage/network/arch.h"

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
struct qp_word {
    const char *key, *fallback;
};

/* Which layers have a sliding window, where config.json has no `layer_types`. */
enum qp_window_rule {
    QP_WINDOW_NONE,
    QP_WINDOW_ALL,
    QP_WINDOW_QWEN,    /* if `use_sliding_window`, layers from `max_window_layers` on */
    QP_WINDOW_PATTERN, /* all but each n-th layer; n: `sliding_window_pattern` or the family's */
};

/* Which layers rotate queries and keys. */
enum qp_rope_rule {
    QP_ROPE_ALL,
    QP_ROPE_NONE,
    QP_ROPE_LISTED,  /* those with 1 in `no_rope_layers`, else all but each `no_rope_layer_interval`-th (4) */
    QP_ROPE_SLIDING, /* those with a window, if any layer has one */
};

/* What the scores of attention are multiplied with. */
enum qp_score_scale {
    QP_SCALE_HEAD,  /* head_dim^-1/2 */
    QP_SCALE_RSQRT, /* the number's ^-1/2 */
    QP_SCALE_VALUE, /* the number */
};

enum qp_qk_norm {
    QP_QK_NORM_HEAD,       /* of each head by itself, before RoPE */
    QP_QK_NORM_WIDTH,      /* of all heads at once */
    QP_QK_NORM_AFTER_ROPE, /* of each head, after RoPE */
};

struct qp_family {
    const char *name;                          /* model_type in config.json: "llama" */
    const char *class_name;                    /* in `architectures`: "LlamaForCausalLM" */
    const char *gguf;                          /* general.architecture; NULL: not read from GGUF */
    const char *gguf_act;                      /* its activation there, where it is another one by default */
    const char *block;                         /* printf format of a layer's module name: "model.layers.%d" */
    const char *embedding, *final_norm, *head; /* "model.embed_tokens", "model.norm", "lm_head" */
    const char *ffn_key;                       /* of the MLP's width, if it is not intermediate_size */
    const char *positions;                     /* learned ones, added to embeddings; the first in row position_offset */
    int64_t position_offset;
    const char *embed_width_key, *project_in, *project_out; /* of embeddings of another width than hidden */
    struct qp_number embed_scale;                           /* embeddings are multiplied with it */
    bool embed_sqrt; /* ... with the root of hidden, rounded to the weights' dtype */
    struct qp_number logit_scale, logit_divisor, logit_cap;

    enum qp_norm_kind norm;
    float norm_offset;
    bool norm_bias;
    struct qp_number norm_eps;
    struct qp_module attn_in, attn_out, mlp_in, mlp_out; /* norms before and after attention and the MLP */
    const char *pre_norm_key; /* false there: attn_in and mlp_in are of the stream after the part; no final norm */
    bool parallel;            /* the MLP reads what attention reads */
    struct qp_number residual_scale; /* of what attention and the MLP add */

    struct qp_module q, k, v, qkv, o;         /* q, k, v or, in the rows of one matrix, qkv */
    struct qp_module gate, up, gate_up, down; /* gate, up or gate_up; up alone: an MLP without gate */
    struct qp_flag qkv_bias, o_bias, mlp_bias;
    struct qp_module q_norm, k_norm;
    enum qp_qk_norm qk_norm;
    int64_t head_dim;                           /* where config.json does not say; 0: hidden / heads */
    int64_t heads, kv_heads, vocab, max_length; /* where config.json does not say; 0: it has to, or what is usual */
    bool permuted;                              /* GGUF interleaves the halves of the heads of q and k */
    struct qp_word act;
    const char *act_parameters[4]; /* names of an activation's learned numbers, in the order of qp_layer_type's */
    enum qp_score_scale scale_rule;
    struct qp_number scale, attn_cap;
    int64_t gguf_wide_layers; /* models of so many layers have hidden / heads as scale, which GGUF does not say; or 0 */

    enum qp_rope_rule rope_rule;
    struct qp_number rope_theta, rope_theta_sliding; /* the latter of layers with a window, if it differs */
    struct qp_rope_config rope;    /* where config.json has no dictionary; kind 0: as it says by rope_theta */
    struct qp_number query_temper; /* in the dictionary: queries alone are scaled by position (qp_rope_config.temper) */
    double rotary;                 /* partial_rotary_factor where config.json does not say; 0: 1 */
    bool rope_pairs;
    enum qp_window_rule window_rule;
    int64_t window, window_pattern; /* where config.json does not say */
    struct qp_flag tied;
};

/* A multimodal model whose text part is a family, below `text_config`; all else of it is copied as it is. */
struct qp_wrapper {
    const char *name, *class_name;
    const char *block, *embedding, *final_norm, *head; /* of the text part, in place of the family's */
    const char *stored[2][2];                          /* how names of modules start, and how those of tensors do */
    const char *ignore[2];                             /* for engines: expressions for the modules that are copied */
};

/* All of them, ended by NULL. Static. */
const struct qp_wrapper *const *qp_wrappers(void);

/* All families, ended by NULL. Static. */
const struct qp_family *const *qp_families(void);

/* What config.json says of a layer that graph.c needs, checked. */
struct qp_layer_config {
    int64_t hidden, ffn;
    int heads, kv_heads, head_dim;
    float eps, residual_scale, attn_scale, attn_cap;
    bool qkv_bias, o_bias, mlp_bias, post_norm;
    int64_t window;     /* of this layer, 0: none */
    int q_rope, k_rope; /* indices into arch->ropes, -1: none */
    enum qp_act act;
};

/* The type of a layer; kept for the life of the process, the same for equal arguments. */
int qp_layer_type_new(const struct qp_family *family, const struct qp_layer_config *config,
                      const struct qp_layer_type **out, struct qp_error *err);

/* The same for a list of them, one a layer. */
int qp_layer_types_keep(int64_t count, const struct qp_layer_type **types, const struct qp_layer_type *const **out,
                        struct qp_error *err);

#endif
