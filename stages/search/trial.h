/* Judging scales of one site: what quantization does to the outputs of its linears, whatever the scales came from. */
#ifndef QUANTPIPE_STAGES_SEARCH_TRIAL_H
#define QUANTPIPE_STAGES_SEARCH_TRIAL_H

#include "libstage/model/block.h"
#include "libstage/model/model_unit.h"
#include "libstage/model/scales.h"

/* A linear that is to be quantized, with its weights as they stand. */
struct member {
    enum qp_linear linear;
    const struct qp_quant_spec *spec;
    struct qp_grid grid; /* the spec's; its global scale belongs to the latest candidate */
    int64_t rows, group, scales;
    float *w;       /* [rows, in] */
    float *columns; /* [in], largest |w| of each column */
};

struct trial {
    const struct qp_kernels *kernels;
    enum qp_scale_method clip; /* how scales are chosen */
    int64_t in;
    struct member members[QP_LINEARS];
    int count;
    float *h;                /* [in, in] */
    float *scaled_h;         /* [in, in], of the candidate */
    float *s, *best;         /* [in] each: the candidate, the best so far */
    float *scaled, *scratch; /* [largest rows, in] */
    float *scale;            /* of the latest member */
    int8_t *zero;
    uint8_t *codes;
    double best_loss; /* INFINITY before the first candidate */
};

/* Takes the quantized linears of a site and its second moment, folds applied. */
int trial_open(struct trial *t, const struct qp_model *model, const struct qp_block *block, enum qp_site site,
               enum qp_scale_method clip, struct qp_error *err);
void trial_close(struct trial *t);

/* W diag(s) of a member in t->scaled, its scales in t->scale and t->zero, its codes in t->codes. trial_prepare goes
 * before: H of the candidate t->s, and the global scales that fused linears share. */
void trial_prepare(struct trial *t);
int trial_quantize(struct trial *t, const struct member *m, struct qp_error *err);

/* *loss = sum over the members of tr(D H Dᵀ), D = dequantize(quantize(W diag(s))) diag(s)⁻¹ - W, for the candidate
 * t->s, which is kept in t->best when it is the best so far. */
int trial_judge(struct trial *t, double *loss, struct qp_error *err);

#endif
