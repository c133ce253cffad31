/* The rows of a matrix that a thread takes through GPTQ at once. All matrices are [rows, n] in the order of the columns
 * in which they are rounded, if they do not say else. */
#ifndef QUANTPIPE_SOLVERS_GPTQ_ROWS_H
#define QUANTPIPE_SOLVERS_GPTQ_ROWS_H

#include "libstage/solvers/factor.h"
#include "libstage/solvers/gptq.h"

struct qp_gptq {
    struct qp_factor factor;
    int64_t in, block, group;
    enum qp_order kind;
    int64_t *order; /* order[i]: the column that is rounded i-th; NULL: natural */
    float *added;   /* [in] what was added to H's diagonal */
    float *sketch;  /* [QP_SKETCH, in]: (random signs) Rᵀ; NULL where columns are few */
};

struct qp_gptq_rows {
    const struct qp_gptq *s;
    const struct qp_quantized *q;
    const float *w; /* [rows, n] in the natural order, like codes */
    uint8_t *codes;
    int64_t rows, first; /* first: in the matrix */
    int64_t groups;
    const int64_t *bounds; /* where blocks of columns begin, and the end; blocks + 1 */
    int64_t blocks, widest;
    const float *diagonals;  /* [blocks, widest * widest] the blocks of R on its diagonal, rows as long as a block */
    const int32_t *group_of; /* [n], of the i-th column */
    const float *scale;      /* [rows, groups], with zero (NULL when symmetric) */
    const int8_t *zero;
    qp_rescale_fn *rescale;
    void *context;
    struct qp_factor_rows deviation; /* x: sums of columns that are to come, w - q of those that are rounded */
    float *error;                    /* deviation R; NULL: not wanted, as are the three below */
    struct qp_factor_rows other;     /* the same of rounding to nearest, for some rows; tiles shared with deviation */
    float *other_error;
    uint8_t *other_codes;   /* natural order */
    float *ordered;         /* weights, and their codes below; NULL where the order is the natural one */
    uint8_t *ordered_codes; /* both share memory with `other`, which is needed after the column loop */
    float *block;           /* [rows, widest] */
    int64_t *likely;        /* [rows] */
};

/* The column loop. */
int qp_gptq_round(struct qp_gptq_rows *v, struct qp_error *err);

/* Gives rows the codes of rounding to nearest where those lose less; loss[rows] is what is left. */
void qp_gptq_take_nearest(struct qp_gptq_rows *v, double *loss);

/* gradient[rows, n], natural order: H (w - q), after the above. Spends v->error. */
void qp_gptq_gradient(struct qp_gptq_rows *v, float *gradient);

/* Column i of the order. */
static inline int64_t qp_gptq_column(const struct qp_gptq *s, int64_t i)
{
    return s->order ? s->order[i] : i;
}

#endif
