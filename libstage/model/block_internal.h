/* What the files of block.h share. */
#ifndef QUANTPIPE_MODEL_BLOCK_INTERNAL_H
#define QUANTPIPE_MODEL_BLOCK_INTERNAL_H

#include "libstage/model/block.h"

/* The tensor B.MODULE.WHAT of a decoder layer's unit, or NULL. */
struct qp_tensor *qp_block_find(const struct qp_block *block, const char *module, const char *what);
const char *qp_block_name(const struct qp_block *block, const char *module, const char *what, char *text, size_t size);

/* The same, with its shape checked: rank 1 [rows] when cols is 0, else [rows, cols]. QP_ERR_INPUT when it is not
 * there, or not as expected. dtype QP_DTYPE_NONE: F32, F16, BF16 or F64. */
int qp_block_get(const struct qp_block *block, const char *module, const char *what, enum qp_dtype dtype, int64_t rows,
                 int64_t cols, const struct qp_tensor **out, struct qp_error *err);

/* 1 with *fold[in] the scale of a site, 0 when it has none, negative on error. */
int qp_block_site_fold(const struct qp_block *block, enum qp_site site, const float **fold, struct qp_error *err);

/* The site whose fold divides the rows of a linear, and the norm's gain; -1 when there is none. */
int qp_site_of_rows(const struct qp_arch *arch, enum qp_linear linear);
int qp_site_of_norm(const struct qp_arch *arch, enum qp_norm norm);

/* The element of a site's fold that divides row `row` of its target. */
int64_t qp_fold_index(const struct qp_arch *arch, enum qp_linear target, int64_t row);

/* Simulated activation quantization of a decoder layer: at each site that of its linears in `quantized` (a bit each),
 * which have to agree. */
int qp_site_activations(const struct qp_arch *arch, int64_t layer, const struct qp_scheme *scheme, unsigned quantized,
                        struct qp_quant_spec out[QP_SITES], struct qp_error *err);

/* Rounds v[count] to the dtype and back. */
void qp_round_to(const struct qp_kernels *kernels, enum qp_dtype dtype, int64_t count, float *v);

#endif
