/* What quantizing weights and activations does to the outputs of a site, on samples of its inputs. */
#ifndef QUANTPIPE_STAGES_SMOOTH_OUTPUTS_H
#define QUANTPIPE_STAGES_SMOOTH_OUTPUTS_H

#include "libstage/network/block.h"
#include "libstage/network/model_unit.h"

/* A quantized linear of the site. */
struct smoothed {
    const struct qp_quant_spec *weights;
    int64_t rows;
    float *w;       /* [rows, in], as it stands */
    float *outputs; /* [n, rows] = x wᵀ */
};

struct outputs {
    const struct qp_kernels *kernels;
    struct qp_quant_spec activations;
    int64_t n, in;
    struct smoothed linears[QP_SITE_LINEARS_MAX];
    int count;
    float *x;                              /* [n, in], folds applied */
    float *scaled_x, *scaled_w, *products; /* scratch */
    float *scale;
    int8_t *zero;
    uint8_t *codes;
};

/* Takes the samples and quantized linears of a site. QP_ERR_INPUT when the unit has no samples. */
int outputs_open(struct outputs *o, const struct qp_model *model, const struct qp_block *block, int site,
                 struct qp_error *err);
void outputs_close(struct outputs *o);

/* The loss of scales s[in]: sum over the linears of ||Qa(X diag(s)⁻¹) Qw(W diag(s))ᵀ - X Wᵀ||², Qa and Qw rounding to
 * the scheme's number formats with the ranges of what they round (Qw: qp_choose_scales with QP_SCALES_MINMAX, so blocks
 * and four over six as quantize has them). A fixed range of activations is that of the samples. */
int outputs_loss(const struct outputs *o, const float *s, double *loss, struct qp_error *err);

#endif
