/* A block unit seen as a model's block: weights as they are in the checkpoint, as transformed, as quantized. For stages
 * without libstage libstage/wire/PROTOCOL.md says the same.
 *
 * Names in a decoder layer's unit (B = "model.layers.3", S a site's name, M a module):
 *   B.M.weight, B.M.bias, B.NORM.weight    the checkpoint's own tensors, never changed on the way
 *   B.S.hessian F32 [in (in + 1) / 2]      sum of xᵀx over the tokens that calibrate saw: rows of the upper triangle,
 *       each from its diagonal on; [in, in] with both triangles is taken as well
 *   B.S.absmax, .min, .max F32 [in]; .absmean F32 [in]  mean of |x|;  attribute `tokens`: how many tokens
 *   B.S.asymmetry F32 [in, in]             sum of (x_original - x)ᵀ x, where x is the input after quantized blocks,
 *       over part of the windows, as large as all would make it
 *   B.S.held_asymmetry, .held_hessian F32 [in, in]    the same and sum of xᵀx over the other windows
 *   B.S.samples F32 [n, in]                n of the tokens' inputs, evenly spread over the text
 *   B.S.histogram F32 [in, 512]            per channel, how often |x| had floor(16 log2 |x|) + 320 (held in 0 to 511)
 *   B.S.token_absmax F32 [1]               mean over the tokens of max |x|
 *   B.S.window_min, .window_max F32 [windows, in]    of each window of the text by itself
 *   B.S.block_histogram F32 [512]          of the largest |x| of 16 columns of a token
 * (libstage/calibration/histogram.h) B.kv.key_absmax, B.kv.value_absmax F32 [kv]   per channel, of what a KV cache
 * holds (keys after RoPE) B.S.fold F32 [in]                      what smooth and search multiplied the site's weights
 * with so far B.M.weight_scale F32 [out, groups] (or [1]), B.M.weight_zero_point I8, B.M.weight_global_scale F32 [1]
 * (NVFP4): chosen by search, kept or chosen by quantize B.M.weight_codes I8, F8 or U8 [out, in]       by quantize, one
 * byte a code B.M.weight_packed I32 [out, words]            the same as words of kernels/pack.h, where weights are
 * stored so and all stages after quantize say that they take "packed_codes" B.M.low_rank_a [R, in], B.M.low_rank_b
 * [out, R]   by quantize, in the model's dtype: the linear computes Ŵ x + b (a x) + bias, the correction on the input
 * as it is before its quantization B.S.input_scale F32 [1]                static activations; B.S.input_global_scale
 * F32 [1]: NVFP4's B.kv.key_scale, B.kv.value_scale F32 [1]      of a quantized KV cache Statistics are those of the
 * untransformed network; the accessors below apply the folds, exactly: weights W' = D_out⁻¹ W D_in, norm gain g' = g /
 * d, H' = D⁻¹ H D⁻¹ (asymmetry and held_ alike), absmax' = absmax / d. Embedding unit: E.weight. Head unit: final norm
 * and HEAD.weight. */
#ifndef QUANTPIPE_NETWORK_BLOCK_H
#define QUANTPIPE_NETWORK_BLOCK_H

#include "kernels/kernels.h"
#include "libstage/network/arch.h"
#include "libstage/tensor/quantized.h"
#include "libstage/tensor/scheme/scheme.h"
#include "libstage/tensor/unit.h"

struct qp_block {
    const struct qp_arch *arch;
    const struct qp_layer_type *type; /* of a decoder layer; NULL at the ends */
    const struct qp_kernels *kernels;
    struct qp_unit *unit;
    int64_t layer; /* 0-based decoder layer; -1 the embedding, arch->layers the head */
    int step;      /* of a layer that comes in steps (libstage/network/sequential.h); 0: whole */
    enum qp_dtype
        compute; /* what products of the loaded layer or head are computed in: QP_F32 unless somebody sets it */
};

/* The view of a block unit; QP_ERR_INPUT when its seq, or its attributes `block` and `step`, are none of the model's.
 */
int qp_block_of(const struct qp_arch *arch, const struct qp_kernels *kernels, struct qp_unit *unit,
                struct qp_block *out, struct qp_error *err);

bool qp_block_is_layer(const struct qp_block *block);

/* Whether this is when a layer's site is calibrated and quantized. */
bool qp_block_has_step(const struct qp_block *block, int site);

/* The name B.MODULE.WHAT of a tensor of a decoder layer, into text; returns it. */
const char *qp_block_name(const struct qp_block *block, const char *module, const char *what, char *text, size_t size);

/* Float32 copies into the caller's memory: w[out, in]. `transformed`: with the folds, else as in the checkpoint. */
int qp_block_weight(const struct qp_block *block, int linear, bool transformed, float *w, struct qp_error *err);

/* 1 with b[out] filled, 0 when the linear has no bias, negative on error. */
int qp_block_bias(const struct qp_block *block, int linear, bool transformed, float *b, struct qp_error *err);

/* gain[width]: what x is multiplied with, the norm's offset included; transformed: divided by the fold, with what is
 * stored of it rounded to the model's dtype, as it will be exported. */
int qp_block_norm(const struct qp_block *block, int norm, bool transformed, float *gain, struct qp_error *err);

/* 1 with bias[width] filled, 0 when the norm has none, negative on error; transformed as the gain is. */
int qp_block_norm_bias(const struct qp_block *block, int norm, bool transformed, float *bias, struct qp_error *err);

/* Whether a tensor is one of the checkpoint's own: a weight, a bias, a gain or another learned one. */
bool qp_tensor_is_own(const struct qp_arch *arch, const struct qp_tensor *tensor);

bool qp_block_has_stat(const struct qp_block *block, int site, const char *stat);

/* Takes a statistic out of the unit; nothing where there is none. */
void qp_block_drop(const struct qp_block *block, int site, const char *stat);

/* h[in, in], both triangles, with the folds. QP_ERR_INPUT when the unit does not carry it. */
int qp_block_hessian(const struct qp_block *block, int site, float *h, struct qp_error *err);

/* The same as blocks bring it, where that is a triangle: 1 with *h filled, which points into the unit, else 0. */
int qp_block_packed_hessian(const struct qp_block *block, int site, struct qp_packed_hessian *h, struct qp_error *err);

/* The same for another stat: "asymmetry", which is not symmetric, "held_asymmetry" and "held_hessian". */
int qp_block_site_matrix(const struct qp_block *block, int site, const char *stat, float *h, struct qp_error *err);

/* stat: "absmax", "absmean", "min", "max"; v[in], with the folds (all positive, so min stays min). */
int qp_block_stat(const struct qp_block *block, int site, const char *stat, float *v, struct qp_error *err);

/* (*x)[*count, in]: samples of the site's inputs with the folds, in new memory. */
int qp_block_samples(const struct qp_block *block, int site, int64_t *count, float **x, struct qp_error *err);

/* Multiplies the site's weights by s[in] from here on, and divides its fold target by it. Changes s to what is done
 * exactly: for a norm, s is moved to gain / round(gain / s) so that the rounding of the exported gain is compensated in
 * the weights; through grouped value heads the heads that share rows get their geometric mean. QP_ERR_INPUT for a
 * site without fold target or a scale that is not finite and positive. */
int qp_block_fold(struct qp_block *block, int site, float *s, struct qp_error *err);

/* Gives the channels v[in] of a site that come from one row of its fold target, through grouped value heads, their
 * geometric mean: only such scales can be folded there. Of other sites nothing changes. Numbers at least 0. */
void qp_share_heads(const struct qp_site *site, float *v);

/* 1 with *out the checkpoint's own matrix of a linear that no fold touches, which is thus what has to be quantized; 0
 * when some fold does. */
int qp_block_stored_weight(const struct qp_block *block, int linear, const struct qp_tensor **out,
                           struct qp_error *err);

/* Puts new tensors for a quantized matrix into the unit, allocated through `allocator`, and points job's scale, zero
 * and codes to them, to be filled. job: the rest of it, and codes as bytes or packed. */
int qp_block_new_quantized(struct qp_block *block, int linear, const struct qp_allocator *allocator, struct qp_rtn *job,
                           struct qp_error *err);

/* Puts the result of quantization into the unit; copies codes, scale and zero through `allocator`. */
int qp_block_set_quantized(struct qp_block *block, int linear, const struct qp_quantized *q,
                           const struct qp_allocator *allocator, struct qp_error *err);

/* 1 with *q (codes NULL) pointing to scales that are in the unit, chosen by search or with codes; 0 when there are
 * none. QP_ERR_INPUT when they do not fit `scheme`. */
int qp_block_scales(const struct qp_block *block, int linear, const struct qp_linear_scheme *scheme,
                    struct qp_quantized *q, struct qp_error *err);

/* 1 with *q pointing into the unit's tensors, 0 when the linear was not quantized. `scheme`: what applies to it.
 * QP_ERR_STAGE for codes, zero points and scales that are none of its number format. */
int qp_block_quantized(const struct qp_block *block, int linear, const struct qp_linear_scheme *scheme,
                       struct qp_quantized *q, struct qp_error *err);

/* Whether a linear has codes, in either form. */
bool qp_block_has_codes(const struct qp_block *block, int linear);

/* w[rows, cols] of codes in either form. */
int qp_dequantize(const struct qp_kernels *kernels, const struct qp_quantized *q, float *w, struct qp_error *err);

/* 1 with the factors a[rank, in] and b[out, rank] of a linear's low-rank correction, 0 when it has none. */
int qp_block_low_rank(const struct qp_block *block, int linear, const struct qp_tensor **a, const struct qp_tensor **b,
                      struct qp_error *err);
/* Puts them into the unit, rounded to the model's dtype. */
int qp_block_set_low_rank(struct qp_block *block, int linear, int64_t rank, const float *a, const float *b,
                          const struct qp_allocator *allocator, struct qp_error *err);
/* w[out, in] += b a, if there is one. */
int qp_block_add_low_rank(const struct qp_block *block, int linear, float *w, struct qp_error *err);

/* A positive, finite number that the unit has for a site or the KV cache: B.MODULE.WHAT F32 [1], such as
 * "attn_in", "input_scale" or "kv", "key_scale". QP_ERR_INPUT when it is missing or anything else. */
int qp_block_number(const struct qp_block *block, const char *module, const char *what, float *value,
                    struct qp_error *err);
int qp_block_set_number(struct qp_block *block, const char *module, const char *what, float value,
                        const struct qp_allocator *allocator, struct qp_error *err);

/* How the activations of each site of a layer are quantized when the linears are that quantized[linear_count] says
 * (NULL: all): linears of a site that are have to agree (QP_ERR_INPUT). out[site_count]. */
int qp_site_activations(const struct qp_arch *arch, int64_t layer, const struct qp_scheme *scheme,
                        const bool *quantized, struct qp_quant_spec *out, struct qp_error *err);

/* ---- forward ---- */

enum qp_version { QP_ORIGINAL, QP_TRANSFORMED, QP_QUANTIZED };

struct qp_low_rank_factors {
    int64_t rank; /* 0: none */
    float *a, *b;
};

/* What products are computed in: QP_BF16, summed in float32, or QP_F32. `choice` is a stage's parameter: bf16, fp32, or
 * auto, which is BF16 for a checkpoint in BF16 or F16 where that is faster. */
extern const char *const qp_compute_choices[];
enum qp_dtype qp_compute(const char *choice, const struct qp_arch *arch, const struct qp_kernels *kernels);
const char *qp_compute_name(enum qp_dtype compute); /* as a choice */

/* Whether a linear that is quantized so, with `cols` inputs, multiplies the codes of its weights with those of its
 * activations: integers on both sides whose scales do not change within a sum, where that is faster. */
bool qp_multiplies_int8(const struct qp_kernels *kernels, const struct qp_linear_scheme *scheme, int64_t cols);

/* Everything that a decoder layer's forward needs, in lists as long as those of its type. Between products there are
 * float32 numbers; with QP_BF16 the inputs of products, sites and attention's operands are rounded to BF16. */
struct qp_layer {
    const struct qp_arch *arch;
    const struct qp_layer_type *type;
    const struct qp_kernels *kernels;
    enum qp_dtype compute;
    float **norm, **norm_bias; /* norm_bias NULL: none */
    float **weight;            /* of QP_F32 */
    const uint16_t **bf16;     /* of QP_BF16; may point into the block's unit */
    struct qp_quantized *int8; /* codes that are multiplied with the activations' codes, in place of a weight above;
                                  they point into the block's unit. codes NULL: none */
    float **bias;              /* NULL: none */
    struct qp_xielu xielu;     /* of an activation that has them */
    struct qp_quant_spec *activations;    /* at the site's input, simulated unless codes are multiplied; of QP_QUANTIZED
                                             only. NVFP4: with its global scale */
    float *input_scale;                   /* of those with one fixed range */
    struct qp_low_rank_factors *low_rank; /* of QP_QUANTIZED only */
    struct qp_quant_spec cache;           /* of keys and values, likewise */
    float key_scale, value_scale;
    struct qp_buffer_plan *plan; /* where the graph's buffers lie in a workspace */
    void *memory, *lists;
};

/* QP_QUANTIZED is what a reader of the exported checkpoint computes: linears without codes are taken transformed
 * and rounded to the model's dtype. It alone needs `scheme`: the activations of a site are
 * quantized when one of its linears has codes; linears of a site that have codes have to agree on them (QP_ERR_INPUT).
 * Where codes are multiplied (qp_multiplies_int8) they are not dequantized, and the unit has to outlive the layer. */
int qp_layer_load(const struct qp_block *block, enum qp_version version, const struct qp_scheme *scheme,
                  struct qp_layer *out, struct qp_error *err);
void qp_layer_free(struct qp_layer *layer);

/* Sees the input x[rows, in] of a site before (simulated) activation quantization. Rows come in the order of the text,
 * whole sequences at a time. */
typedef int qp_site_fn(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err);

/* The same for a layer that computes in BF16. */
typedef int qp_site_bf16_fn(void *context, int site, const uint16_t *x, int64_t rows, int64_t in, struct qp_error *err);

/* Sees what a KV cache would hold, keys after RoPE: keys[rows, dim] and values[rows, dim], before (simulated)
 * quantization. */
typedef int qp_cache_fn(void *context, const float *keys, const float *values, int64_t rows, int64_t dim,
                        struct qp_error *err);

/* What a forward shows on its way; each may be NULL. Without `site_bf16` a layer that computes in BF16 shows `site` the
 * same numbers in float32. */
struct qp_taps {
    qp_site_fn *site;
    qp_site_bf16_fn *site_bf16;
    qp_cache_fn *cache;
    void *context;
    bool ends; /* nothing is wanted beyond the last site: x is undefined afterwards */
};

struct qp_workspace; /* scratch memory of forwards, grown as needed; one a thread */
int qp_workspace_new(struct qp_workspace **out, struct qp_error *err);
void qp_workspace_free(struct qp_workspace *workspace);
void qp_workspace_empty(struct qp_workspace *workspace); /* its memory goes back until the next forward */

/* Hidden states x[count * length, hidden]. */
struct qp_sequences {
    int64_t count, length;
    float *x;
};

/* One decoder layer in place on hidden states, each sequence from position 0: its graph, operation by
 * operation. rotations: tables of at least `length` rows. Computed in chunks of whole sequences of about 2048 tokens;
 * activations that have one range a tensor get one a sequence. `taps` may be NULL. */
int qp_layer_forward(const struct qp_layer *layer, const struct qp_sequences *sequences,
                     const struct qp_rotations *rotations, struct qp_workspace *workspace, const struct qp_taps *taps,
                     struct qp_error *err);

/* x[count, hidden] = rows of the embedding unit's matrix, projected and with learned positions where the network has
 * them; count is a whole number of sequences of `length` tokens. QP_QUANTIZED: rounded to the model's dtype, as it will
 * be exported. QP_ERR_INPUT for an id outside the vocabulary, and for sequences that are longer than positions go. */
int qp_embed(const struct qp_block *block, enum qp_version version, int64_t count, int64_t length, const int32_t *ids,
             float *x, struct qp_error *err);

/* The head: final norm, projection and matrix. The matrix, which may be larger than any layer, stays where the block's
 * unit has it, which the head needs until it is freed; it is converted in panels of rows where it is used. */
struct qp_head {
    const struct qp_arch *arch;
    const struct qp_kernels *kernels;
    enum qp_dtype compute;          /* QP_BF16 or QP_F32, as with a projection always */
    const struct qp_tensor *weight; /* [vocab, embed_width] of a float dtype */
    float *gain;                    /* [hidden] */
    float *rounded_gain;            /* to the model's dtype, as it will be exported */
    float *bias;                    /* [hidden], NULL: none */
    float *project;                 /* [embed_width, hidden], and the same rounded; NULL: none */
};

/* Floats a row that qp_head_logits needs as scratch. */
static inline int64_t qp_head_scratch(const struct qp_arch *arch)
{
    return arch->hidden + (arch->project_out ? arch->embed_width : 0);
}

/* Rows of the matrix that a thread of qp_head_logits converts at a time. */
int64_t qp_head_panel(const struct qp_arch *arch);

int qp_head_load(const struct qp_block *block, struct qp_head *out, struct qp_error *err);
void qp_head_free(struct qp_head *head);

/* logits[rows, vocab] of x[rows, hidden]; scratch[rows, qp_head_scratch]. QP_QUANTIZED: with what will be exported. */
void qp_head_logits(const struct qp_head *head, enum qp_version version, int64_t rows, const float *x, float *scratch,
                    float *logits);

#endif
