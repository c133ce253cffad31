/* GPTQ for the linears of one site: the factor of H^-1 is made once and serves each of them. */
#ifndef QUANTPIPE_SOLVERS_GPTQ_H
#define QUANTPIPE_SOLVERS_GPTQ_H

#include "kernels/kernels.h"
#include "libstage/base/error.h"
#include "libstage/tensor/quantized.h"
#include "libstage/solvers/order.h"

struct qp_gptq;

/* Where there are as many columns, what rounding to nearest loses is estimated first, by so many random projections. */
enum { QP_SKETCHED = 512, QP_SKETCH = 128 };

/* How columns are taken. */
struct qp_gptq_columns {
    int64_t block; /* columns between updates of the rest */
    enum qp_order order;
    int64_t group; /* of the order */
};

/* Factors h[in, in] (symmetric). Columns whose diagonal is 0 were never seen in calibration: they get 1 there, which
 * rounds them to nearest. *damping: what to add as
 * a share of the mean diagonal, and on return what was added: it is raised tenfold as often as the factorization needs
 * it, to at most 1. QP_ERR_INPUT when H is not finite, or not even that suffices. */
int qp_gptq_open(const struct qp_kernels *kernels, int64_t in, const float *h, const struct qp_gptq_columns *columns,
                 double *damping, struct qp_gptq **out, struct qp_error *err);

/* The same of a triangle, so that nobody has to have the square beside its factor. */
int qp_gptq_open_packed(const struct qp_kernels *kernels, int64_t in, const struct qp_packed_hessian *h,
                        const struct qp_gptq_columns *columns, double *damping, struct qp_gptq **out,
                        struct qp_error *err);

void qp_gptq_close(struct qp_gptq *solver); /* NULL is accepted */

/* Whether the solver's order suits this group. */
bool qp_gptq_serves(const struct qp_gptq *solver, int64_t group);

/* Called when the column loop enters a group, to set its scales from w[rows, count], its columns as they are by then;
 * columns[count] are their places in the matrix. */
typedef int qp_rescale_fn(void *context, int64_t group, int64_t count, const int64_t *columns, const float *w,
                          struct qp_error *err);
struct qp_rescale {
    qp_rescale_fn *set; /* NULL: scales stay */
    void *context;
};

/* What is left of the loss, for who goes on from the codes; H without what damping added to it. */
struct qp_gptq_rest {
    float *gradient; /* [rows, cols] H (w - q), in the natural order */
    double *loss;    /* [rows] (w - q)ᵀ H (w - q) */
};

/* Codes of w[rows, cols] in the number format, groups, scales and zero points of *q; codes[rows, cols] is q->codes,
 * writable. `rescale` may be NULL; it wants an order that keeps groups whole, and q->group above 0. `rest` may be NULL;
 * with it a row gets the codes of rounding to nearest where those lose less (as far as a sketch of 128 random
 * projections tells, where columns are many). */
int qp_gptq_solve(const struct qp_gptq *solver, const struct qp_quantized *q, const float *w, uint8_t *codes,
                  const struct qp_rescale *rescale, const struct qp_gptq_rest *rest, struct qp_error *err);

/* Bytes that a solver holds; and on top, with as many threads as OpenMP has, a matrix that is solved in blocks without
 * `rescale`. */
double qp_gptq_factor_bytes(const struct qp_kernels *kernels, int64_t in);
double qp_gptq_solve_bytes(const struct qp_kernels *kernels, int64_t rows, int64_t in, int64_t block, bool rest);

#endif
