/* Architectures as data: what a decoder block consists of, and the sizes that a checkpoint's config.json gives it. */
#ifndef QUANTPIPE_MODEL_ARCH_H
#define QUANTPIPE_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "kernels/dtype.h"
#include "libstage/base/error.h"

/* Where a decoder block's linears read their input. */
enum qp_site { QP_SITE_ATTN_IN, QP_SITE_ATTN_OUT, QP_SITE_MLP_IN, QP_SITE_MLP_OUT, QP_SITES };
enum qp_linear { QP_Q, QP_K, QP_V, QP_O, QP_GATE, QP_UP, QP_DOWN, QP_LINEARS };
enum qp_norm { QP_NORM_ATTN, QP_NORM_MLP, QP_NORMS };

/* What can absorb a per-channel scale of a site exactly. */
enum qp_fold_kind {
    QP_FOLD_NONE,
    QP_FOLD_NORM, /* the gain of norm `fold_target` */
    QP_FOLD_ROWS, /* the rows (and bias) of linear `fold_target`; through the repeat of grouped value heads */
};

/* A dimension as a name, so that tables hold no numbers of one model. */
enum qp_dim { QP_DIM_HIDDEN, QP_DIM_FFN, QP_DIM_Q, QP_DIM_KV };

struct qp_linear_desc {
    const char *module; /* within the block: "self_attn.q_proj" */
    const char *gguf;   /* within the block in GGUF: "attn_q" */
    enum qp_site site;
    enum qp_dim out, in;
    bool rotary; /* rows are heads that get RoPE: GGUF holds them permuted */
};

struct qp_site_desc {
    const char *name; /* "attn_in" */
    enum qp_dim dim;
    enum qp_fold_kind fold;
    int fold_target; /* an enum qp_norm or qp_linear */
};

struct qp_norm_desc {
    const char *module; /* "input_layernorm" */
    const char *gguf;
};

/* One family of models: a constant table in a file of its own. */
struct qp_family {
    const char *name;       /* model_type in config.json: "llama" */
    const char *class_name; /* in `architectures`: "LlamaForCausalLM" */
    const char *gguf;       /* general.architecture */
    const char *block;      /* printf format of a block's module name: "model.layers.%d" */
    const char *embedding;  /* "model.embed_tokens" */
    const char *final_norm; /* "model.norm" */
    const char *head;       /* "lm_head" */
    int64_t window;         /* sliding_window where config.json does not say; 0: attention sees everything */
    struct qp_linear_desc linears[QP_LINEARS];
    struct qp_site_desc sites[QP_SITES];
    struct qp_norm_desc norms[QP_NORMS];
};

enum qp_rope_kind { QP_ROPE_DEFAULT, QP_ROPE_LINEAR, QP_ROPE_LLAMA3 };

struct qp_rope_config {
    enum qp_rope_kind kind;
    double theta, factor, low_freq_factor, high_freq_factor;
    int64_t original_length;
};

struct qp_arch {
    const struct qp_family *family;
    int64_t hidden, ffn, vocab, layers;
    int64_t max_length; /* positions; at most the sliding window, within which windowed attention is full attention */
    int heads, kv_heads, head_dim;
    float norm_eps;
    struct qp_rope_config rope;
    bool tied;                /* the head uses the embedding's matrix */
    bool attn_bias, mlp_bias; /* q, k, v, o have a bias; gate, up, down have one */
    enum qp_dtype dtype;      /* what the checkpoint stores its weights in, and what is exported */
    int32_t bos, eos;         /* -1 when there is none */
};

/* Reads a config.json's object. `path` is for messages. Unknown architectures, activations other than SiLU, and rope
 * kinds that are not known are QP_ERR_INPUT saying what was found and what is supported. */
int qp_arch_parse(const json_t *config, const char *path, struct qp_arch *out, struct qp_error *err);

/* All families, ended by NULL. Static. */
const struct qp_family *const *qp_families(void);

int64_t qp_arch_dim(const struct qp_arch *arch, enum qp_dim dim);

/* Whether the linear has a bias. */
bool qp_arch_has_bias(const struct qp_arch *arch, enum qp_linear linear);

/* Number of weights, biases and gains of one decoder layer. */
int64_t qp_arch_layer_parameters(const struct qp_arch *arch);

/* Number of all weights, biases and gains; a tied head counts once. */
int64_t qp_arch_parameters(const struct qp_arch *arch);

/* Blocks of the dataflow: 0 the embedding, 1 to layers the decoder layers, layers + 1 the head. */
static inline int64_t qp_arch_blocks(const struct qp_arch *arch)
{
    return arch->layers + 2;
}

/* "model.layers.3.NAME" for what is called NAME within decoder layer `layer` (0-based), into text; returns it. */
const char *qp_layer_name(const struct qp_arch *arch, int64_t layer, const char *name, char *text, size_t size);

/* The same for the module of a linear. */
const char *qp_module_name(const struct qp_arch *arch, int64_t layer, enum qp_linear linear, char *text, size_t size);

/* Angular frequency of pair i of a head, for i < head_dim / 2. */
double qp_rope_frequency(const struct qp_rope_config *rope, int head_dim, int i);

/* cos and sin tables [length, head_dim / 2] each, computed in float64 and rounded once. New memory, freed by the
 * caller. QP_ERR_INPUT for a length over arch->max_length. Formulas: RoPE (Su et al. 2021, equation 34); linear scaling
 * divides positions by `factor`; "llama3" scales frequencies by wavelength (Llama 3.1 release, the same as
 * transformers' rope_type llama3). */
int qp_rope_tables(const struct qp_arch *arch, int64_t length, float **cos, float **sin, struct qp_error *err);

#endif
