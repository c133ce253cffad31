/* A network as data: what its layers consist of, as lists that a family's table and a checkpoint's config.json give.
 *
 * Layer i has a type, arch->layer_types[i]: counted lists of linears, sites, norms and buffers, and the operations that
 * make its forward out of them. Layers that differ in nothing share one. Everything else in the program walks these
 * lists; nothing but families/ knows a family, and nothing but the executor (forward.c) calls a forward kernel. */
#ifndef QUANTPIPE_NETWORK_ARCH_H
#define QUANTPIPE_NETWORK_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "libstage/base/json.h"

#include "kernels/dtype.h"
#include "kernels/gated.h"
#include "libstage/base/error.h"

/* What can absorb a per-channel scale of a site exactly. */
enum qp_fold_kind {
    QP_FOLD_NONE,
    QP_FOLD_NORM, /* the gain (and bias) of norm `fold_target` */
    QP_FOLD_ROWS, /* rows of linear `fold_target` and of its bias */
};

/* No more linears read one site. */
enum { QP_SITE_LINEARS_MAX = 8 };

/* One matrix to quantize: y = x Wᵀ + b with W[out, in]. */
struct qp_linear {
    const char *module; /* within the layer, in checkpoints: "self_attn.q_proj" */
    const char *gguf;   /* within the layer in GGUF: "attn_q" */
    int site;           /* what it reads: index into the layer's sites */
    int64_t out, in;
    bool bias;
    int64_t permuted; /* GGUF interleaves the two halves of each head of so many rows; 0: rows are as they are */
};

/* The shared input of one or more linears. */
struct qp_site {
    const char *name; /* "attn_in" */
    int64_t in;
    enum qp_fold_kind fold;
    int fold_target;    /* index of a norm or a linear */
    int64_t fold_first; /* of QP_FOLD_ROWS: the first row of the target that makes a channel */
    /* Of QP_FOLD_ROWS: a head of `fold_head` rows makes `fold_repeat` heads of channels in a row (grouped values). */
    int64_t fold_head, fold_repeat;
};

enum qp_norm_kind { QP_NORM_RMS, QP_NORM_LAYER };

struct qp_norm {
    const char *module; /* "input_layernorm" */
    const char *gguf;
    enum qp_norm_kind kind;
    int64_t width;
    float offset; /* the gain is offset + weight: 0, or 1 (Gemma) */
    float eps;
    bool bias;
};

/* A learned tensor that is of neither a linear nor a norm. */
struct qp_parameter {
    const char *name; /* within the layer, in full: "mlp.act_fn.beta" */
    int rank;         /* 0 or 1 */
    int64_t width;    /* 1 of rank 0 */
};

/* Part of the rows of a buffer: numbers `offset` to `offset + width`. */
struct qp_view {
    int buffer;
    int64_t offset, width;
};

/* Buffer 0 is the residual stream, [tokens, hidden]. Each other buffer is written before it is read. */
enum qp_op_kind {
    QP_OP_COPY,      /* out = in[0] */
    QP_OP_NORM,      /* out = norm `index` of in[0], by itself for each of `heads` heads of norm.width numbers */
    QP_OP_SITE,      /* in[0] is complete: the input of site `index` */
    QP_OP_LINEAR,    /* out = linear `index` of in[0]; add: out += */
    QP_OP_ROPE,      /* rotates in[0], `heads` heads, in place by table `index` */
    QP_OP_CACHE,     /* in[0], in[1] are keys and values as a cache holds them */
    QP_OP_ATTENTION, /* out = attention of in[0], in[1], in[2] (q, k, v) */
    QP_OP_GATED,     /* out = act(in[0]) * in[1]; without in[1] (width 0): act(in[0]) */
    QP_OP_ADD,       /* out += value * in[0] */
};

struct qp_op {
    enum qp_op_kind kind;
    int index;
    struct qp_view in[3], out;
    int heads;
    bool add;
    float value;
};

struct qp_attention_shape {
    int heads, kv_heads, head_dim;
    float scale;
    int64_t window; /* 0: none */
    float cap;      /* 0: none */
};

/* A layer's type; constant, and there as long as the process. */
struct qp_layer_type {
    int linear_count, site_count, norm_count, buffer_count, op_count, parameter_count;
    const struct qp_linear *linears;
    const struct qp_site *sites;
    const struct qp_norm *norms;
    const int64_t *buffers; /* widths; [0] is hidden */
    const struct qp_op *ops;
    const struct qp_parameter *parameters; /* of QP_ACT_XIELU: alpha_p, alpha_n, beta, eps */
    struct qp_attention_shape attention;
    enum qp_act act;
    /* The linears of keys and values as a cache holds them, for the scales that layouts store beside them; which rows
     * of the latter are values. */
    int key_linear, value_linear;
    int64_t value_first;
};

enum qp_rope_kind {
    QP_ROPE_DEFAULT,
    QP_ROPE_LINEAR,
    QP_ROPE_DYNAMIC,
    QP_ROPE_LLAMA3,
    QP_ROPE_YARN,
    QP_ROPE_LONG,
};

enum { QP_ROPE_FACTORS_MAX = 128 };

struct qp_rope_config {
    enum qp_rope_kind kind;
    double theta, factor, low_freq_factor, high_freq_factor;
    double beta_fast, beta_slow; /* yarn */
    bool truncate;
    double attention;                                                           /* cos and sin are multiplied with it */
    double short_factor[QP_ROPE_FACTORS_MAX], long_factor[QP_ROPE_FACTORS_MAX]; /* longrope */
    int64_t original_length;
    double temper; /* cos and sin at p are multiplied with 1 + temper ln(1 + floor(p / original_length)); 0: not */
    int dim;       /* numbers of a head that are rotated, even */
    bool pairs;    /* neighbours, and not halves */
};

enum { QP_ROPES_MAX = 4 };

struct qp_family;
struct qp_wrapper; /* families/family.h */

struct qp_arch {
    const struct qp_family *family;
    const struct qp_wrapper *wrapper;               /* of which the family is the text part; NULL: of none */
    const char *model_type, *class_name;            /* of the wrapper or the family */
    const char *block;                              /* printf format of a layer's module name: "model.layers.%d" */
    const char *embedding, *final_norm, *head;      /* modules outside of the layers */
    const char *positions;                          /* learned, [max_length + position_offset, hidden]; NULL: none */
    const char *project_in, *project_out;           /* between the embedding, the layers and the head; NULL: none */
    int64_t position_offset, embed_width;           /* of embedding and head: hidden, unless there are projections */
    int64_t hidden, ffn, vocab, layers;             /* ffn: of the first layer */
    int64_t max_length;                             /* positions */
    int heads, kv_heads, head_dim;                  /* of the first layer */
    const struct qp_layer_type *const *layer_types; /* [layers] */
    bool embed_sqrt;                                /* embeddings are multiplied with the root of hidden ... */
    float embed_scale, logit_scale, logit_cap;      /* ... or with a number; logits likewise; cap 0: none */
    struct qp_norm output_norm;                     /* before the head; width 0: none */
    int rope_count;
    struct qp_rope_config ropes[QP_ROPES_MAX];
    bool tied;           /* the head uses the embedding's matrix */
    enum qp_dtype dtype; /* what the checkpoint stores its weights in, and what is exported */
    int32_t bos, eos;    /* -1 when there is none */
};

/* Reads a config.json's object. `path` is for messages. Unknown architectures, activations and rope kinds are
 * QP_ERR_INPUT saying what was found and what is supported. */
int qp_arch_parse(const json_t *config, const char *path, struct qp_arch *out, struct qp_error *err);

/* Layer types are kept for the life of the process, equal ones once; copies of an arch share them. */

static inline const struct qp_layer_type *qp_layer_type(const struct qp_arch *arch, int64_t layer)
{
    return arch->layer_types[layer];
}

/* Number of weights of one layer's linears; of all its weights, biases and gains. */
int64_t qp_layer_weights(const struct qp_layer_type *type);
int64_t qp_layer_parameters(const struct qp_layer_type *type);

/* Of block `index` of the dataflow; a tied head counts. */
int64_t qp_block_parameters(const struct qp_arch *arch, int64_t index);

/* Number of all weights, biases and gains; a tied head counts once. */
int64_t qp_arch_parameters(const struct qp_arch *arch);

/* The most that any layer has. */
int qp_arch_most_linears(const struct qp_arch *arch);
int qp_arch_most_sites(const struct qp_arch *arch);

/* Blocks of the dataflow: 0 the embedding, 1 to layers the decoder layers, layers + 1 the head. */
static inline int64_t qp_arch_blocks(const struct qp_arch *arch)
{
    return arch->layers + 2;
}

/* "model.layers.3.NAME" for what is called NAME within decoder layer `layer` (0-based), into text; returns it. */
const char *qp_layer_name(const struct qp_arch *arch, int64_t layer, const char *name, char *text, size_t size);

/* The same for the module of a linear. */
const char *qp_module_name(const struct qp_arch *arch, int64_t layer, int linear, char *text, size_t size);

/* Angular frequency of pair i of a head, for i < rope->dim / 2, in a sequence of `length` tokens. */
double qp_rope_frequency(const struct qp_rope_config *rope, int64_t length, int i);

/* cos and sin of each of arch's ropes, [length, dim / 2] each, computed in float64 and rounded once. Formulas: RoPE (Su
 * et al. 2021, equation 34); linear scaling divides positions by `factor`; "dynamic" raises theta with the length;
 * "llama3" scales frequencies by wavelength (Llama 3.1 release); "yarn" by the number of turns within the original
 * length (Peng et al. 2023); "longrope" by a factor for each (Ding et al. 2024). All as in transformers'
 * modeling_rope_utils.py. */
struct qp_rotations {
    float *cos[QP_ROPES_MAX], *sin[QP_ROPES_MAX];
};

/* QP_ERR_INPUT for a length over arch->max_length. */
int qp_rotations_open(const struct qp_arch *arch, int64_t length, struct qp_rotations *out, struct qp_error *err);
void qp_rotations_close(struct qp_rotations *rotations); /* a zeroed one is accepted */

#endif
