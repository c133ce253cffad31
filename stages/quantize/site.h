/* One site while its linears are quantized. */
#ifndef QUANTPIPE_STAGES_QUANTIZE_SITE_H
#define QUANTPIPE_STAGES_QUANTIZE_SITE_H

#include "libstage/include/block_stage.h"
#include "libstage/solvers/scales.h"

/* The stage's parameters. */
struct qp_quantize_options {
    const char *method, *scales, *order, *low_rank_fit;
    double shrink, norm, damping, asymmetric;
    int64_t steps, block, descent; /* coordinate descent: INT64_MIN when the user left it open */
    int64_t low_rank, low_rank_rounds;
    bool share, reestimate, refit;
};

/* What of a linear is not quantized (stages/quantize/low_rank.h). */
struct qp_low_rank {
    int64_t rank; /* 0: nothing, and all else NULL */
    float *whole; /* [rows, in], the weights of which qp_member's w are the rest */
    float *a;     /* [rank, in] */
    float *b;     /* [rows, rank] */
    float *h;     /* [in, in] */
};

/* A linear of the site. `q` points to the arrays beside it. */
struct qp_member {
    int linear;
    const struct qp_linear_scheme *scheme;
    const struct qp_quant_spec *spec; /* the scheme's of weights */
    struct qp_quantized q;
    float reciprocal; /* of q.format.global, as modelopt rounds it */
    float *w;         /* [rows, in], transformed: what is to be quantized */
    const float *h;   /* [in, in] the metric of its errors: the site's, or what a low-rank correction leaves of it */
    struct qp_low_rank low_rank;
    float *scale;
    int8_t *zero;
    uint8_t *codes;
};

struct qp_site_work {
    struct qp_block *block;
    int site;
    int64_t in;
    enum qp_exact exact; /* the scheme's */
    struct qp_member members[QP_SITE_LINEARS_MAX];
    int count;
    float *h; /* [in, in] Hessian; NULL when no part of the method asks for it, or while it is spared: */
    struct qp_packed_hessian packed; /* the unit's triangle of it; rows NULL: it is not spared */
    float *diagonal;                 /* [in], of that */
    float *asymmetry;                /* [in, in], with what judges it; NULL likewise */
    float *held_asymmetry, *held_hessian;
};

/* Whether a parameter's text is this word. */
bool qp_is(const char *text, const char *word);

int64_t qp_descent_sweeps(const struct qp_quantize_options *options);

/* Whether codes depend on the Hessian, whatever else chose scales. */
bool qp_quantize_learns(const struct qp_quantize_options *options);

/* Loads what the options ask for. Nothing to do when there are no members. Close it also after a failure. */
int qp_site_open(const struct qp_quantize_options *options, const struct qp_model *model, struct qp_block *block,
                 int site, struct qp_site_work *out, struct qp_error *err);
void qp_site_close(struct qp_site_work *work);

/* Loads the Hessian of a site that has spared it until now. */
int qp_site_recall_hessian(struct qp_site_work *work, struct qp_error *err);

#endif
