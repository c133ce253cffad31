/* Judging scales of one site: what quantization does to the outputs of its linears, whatever the scales came from. */
#ifndef QUANTPIPE_STAGES_SEARCH_TRIAL_H
#define QUANTPIPE_STAGES_SEARCH_TRIAL_H

#include "libstage/network/block.h"
#include "libstage/network/model_unit.h"
#include "libstage/solvers/scales.h"

/* A row and what the first candidate lost there. */
struct ranked {
    double loss;
    int64_t row;
};

/* A linear that is to be quantized, with its weights as they stand. */
struct member {
    int linear;
    const struct qp_quant_spec *spec;
    struct qp_number_format format; /* the spec's; its global scale belongs to the latest candidate */
    int64_t rows, group, scales;
    float *w;              /* [rows, in] */
    float *columns;        /* [in], largest |w| of each column */
    struct ranked *ranked; /* [rows]: as they stand; from the first candidate on by falling loss */
};

/* Slices that a site is judged in at most. */
enum { MOST_SLICES = 16 };

struct trial {
    const struct qp_kernels *kernels;
    enum qp_scale_method clip; /* how scales are chosen */
    int64_t in, slices;        /* 1 where a member's scales span rows */
    struct member members[QP_SITE_LINEARS_MAX];
    int count;
    float *h;                /* [in, in] */
    float *scaled_h;         /* [in, in], of the candidate; NULL unless scales are chosen by blocks of H */
    float *s, *best;         /* [in] each: the candidate, the best so far */
    float *diagonal;         /* [in], of the candidate's H */
    float *scaled, *scratch; /* [most rows, in] */
    float *scale;            /* of the latest rows that were quantized */
    int8_t *zero;
    uint8_t *codes;
    double *losses;                /* [most rows] */
    double best_loss;              /* INFINITY before the first candidate */
    double best_sums[MOST_SLICES]; /* its losses up to the end of each slice */
};

/* Takes the quantized linears of a site and its Hessian, folds applied. */
int trial_open(struct trial *t, const struct qp_model *model, const struct qp_block *block, int site,
               enum qp_scale_method clip, struct qp_error *err);
void trial_close(struct trial *t);

/* The rows in places [first, first + rows) of W diag(s) of a member in t->scaled, their scales in t->scale and t->zero,
 * their codes in t->codes. trial_prepare goes before: what of H the choice of scales looks at for the candidate t->s,
 * and the global scales that fused linears share. */
void trial_prepare(struct trial *t);
int trial_quantize(struct trial *t, const struct member *m, int64_t first, int64_t rows, struct qp_error *err);

/* *loss = sum over the members of tr(D H Dᵀ), D = dequantize(quantize(W diag(s))) diag(s)⁻¹ - W, for the candidate
 * t->s, which is kept in t->best when it is the best so far. Rows lose independently of each other, and those where the
 * first candidate lost most go first, in slices. Between two of them a candidate is given up, with *loss INFINITY, when
 * it would have to lose a fifth less than the best does in all rows that are left to become the best. */
int trial_judge(struct trial *t, double *loss, struct qp_error *err);

#endif
