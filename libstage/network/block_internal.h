/* What the files of block.h share. */
#ifndef QUANTPIPE_NETWORK_BLOCK_INTERNAL_H
#define QUANTPIPE_NETWORK_BLOCK_INTERNAL_H

#include "libstage/network/block.h"

/* The tensor B.MODULE.WHAT of a decoder layer's unit, or NULL. */
struct qp_tensor *qp_block_find(const struct qp_block *block, const char *module, const char *what);

/* The same, with its shape checked: rank 1 [rows] when cols is 0, else [rows, cols]. QP_ERR_INPUT when it is not
 * there, or not as expected. dtype QP_DTYPE_NONE: F32, F16, BF16 or F64. */
int qp_block_get(const struct qp_block *block, const char *module, const char *what, enum qp_dtype dtype,
                 const int64_t shape[2], const struct qp_tensor **out, struct qp_error *err);

/* 1 with *fold[in] the scale of a site, 0 when it has none, negative on error. */
int qp_block_site_fold(const struct qp_block *block, int site, const float **fold, struct qp_error *err);

/* The site whose fold divides the rows of a linear, and the norm's gain; -1 when there is none. */
int qp_site_of_rows(const struct qp_layer_type *type, int linear);
int qp_site_of_norm(const struct qp_layer_type *type, int norm);

/* The element of a site's fold that divides row `row` of its target; -1 for a row that makes none of its channels. */
int64_t qp_fold_index(const struct qp_site *site, int64_t row);

/* What an engine that runs `scheme` quantizes in a layer besides weights, with the scales that the unit has:
 * activations of the sites that the linears in quantized[linear_count] (NULL: all) read, keys and values. */
int qp_layer_activations(const struct qp_block *block, const struct qp_scheme *scheme, const bool *quantized,
                         struct qp_layer *layer, struct qp_error *err);

/* The lists of a layer, zeroed; freed with it. */
int qp_layer_new_lists(const struct qp_layer_type *type, struct qp_layer *layer, struct qp_error *err);

/* Loads the low-rank corrections that the unit has; those of the layer are freed with it. */
int qp_layer_load_low_rank(const struct qp_block *block, struct qp_layer *layer, struct qp_error *err);
void qp_layer_free_low_rank(struct qp_layer *layer);

/* Corrections in a forward: enter with the site's input x[rows, in] as it is before quantization, which makes a x of
 * every linear that reads it, and leave with y += b (a x). low: qp_low_rank_width floats a row. */
int64_t qp_low_rank_width(const struct qp_layer *layer);
bool qp_low_rank_reads(const struct qp_layer *layer, int site);
void qp_low_rank_enter(const struct qp_layer *layer, int site, int64_t rows, int64_t in, const float *x, float *low);
void qp_low_rank_leave(const struct qp_layer *layer, int linear, int64_t rows, const float *low, float *y);

/* Puts the fixed ranges that a quantized checkpoint stores for a decoder layer into its unit: of activations that one
 * linear at least has, of the KV cache. QP_ERR_INPUT when one is missing, is no positive number, or differs between
 * linears of a site. */
struct qp_checkpoint;
int qp_checkpoint_ranges(const struct qp_checkpoint *checkpoint, struct qp_block *block, struct qp_error *err);

/* Opens the adapter of a quantized checkpoint, if there is one. QP_ERR_INPUT when it is anything but corrections that
 * are added as they are. */
int qp_checkpoint_open_adapter(struct qp_checkpoint *checkpoint, struct qp_error *err);
/* Puts the corrections of a decoder layer into its unit. */
int qp_checkpoint_low_rank(const struct qp_checkpoint *checkpoint, struct qp_block *block, struct qp_error *err);

/* Rounds gain[width] so that what is stored of it, the gain without the norm's offset, is of the model's dtype. */
void qp_round_gain(const struct qp_block *block, const struct qp_norm *norm, float *gain);

/* Rounds v[count] to the dtype and back. */
void qp_round_to(const struct qp_kernels *kernels, enum qp_dtype dtype, int64_t count, float *v);

#endif
