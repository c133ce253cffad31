/* What this process has done so far: operations by kind, and bytes of tensors that it read.
 *
 * Counted are the calls of table "cpu" (kernels.h), by the formulas below: what the operation needs, whatever a faster
 * version leaves out or does twice. An operation is a product or a sum. Thread-safe. */
#ifndef QUANTPIPE_KERNELS_WORK_H
#define QUANTPIPE_KERNELS_WORK_H

#include <stdint.h>

enum qp_work_kind {
    QP_WORK_GEMM,      /* products of float32 matrices: 2 m n k */
    QP_WORK_GEMM_BF16, /* of BF16 matrices, likewise; of split ones 6 m n k */
    QP_WORK_GEMM_INT8, /* of INT8 matrices, likewise */
    QP_WORK_ATTENTION, /* q kᵀ and p v for the keys that are seen: without a window 2 length (length + 1) dim a head and
                          sequence */
    QP_WORK_ATTENTION_BF16,
    QP_WORK_HESSIAN, /* xᵀx on and above the diagonal: n (n + 1) rows */
    QP_WORK_HESSIAN_BF16,
    QP_WORK_SOLVE,  /* factor of H: 1/3 n³; GPTQ's columns: rows n (n - 1) a block; coordinate descent: 2 n a
                       step */
    QP_WORK_SEARCH, /* candidates of scales: 6 a number and candidate, or what the metric of a block needs */
    QP_WORK_KINDS
};

struct qp_work {
    double operations[QP_WORK_KINDS];
    /* Kernels do not see these; who does counts them. */
    double bytes_read;              /* of tensors that came in, each time that they were looked at */
    double bytes_written;           /* of tensors that were made for other stages */
    double disk_read, disk_written; /* bytes */
};

/* "gemm", "gemm_bf16", "gemm_int8", "attention", "attention_bf16", "hessian", "hessian_bf16", "solve", "search". */
extern const char *const qp_work_names[QP_WORK_KINDS];

void qp_work_add(enum qp_work_kind kind, double operations);
void qp_work_add_read(double bytes);

/* What was added so far; the other fields are 0. */
void qp_work_read(struct qp_work *out);

/* ---- the formulas ---- */

double qp_gemm_operations(int64_t m, int64_t n, int64_t k);

/* Three products of BF16. */
double qp_split_operations(int64_t m, int64_t n, int64_t k);

/* window: how many keys a query sees at most, 0 for all up to itself. */
double qp_attention_operations(int64_t sequences, int64_t length, int64_t heads, int64_t dim, int64_t window);

double qp_hessian_operations(int64_t rows, int64_t n);

/* The factor R of H: LAPACK's count of potrf (LAWN 41, appendix A, leading term). */
double qp_factor_operations(int64_t n);

/* Each column's error goes to those after it in its block: a product and a sum. */
double qp_gptq_block_operations(int64_t rows, int64_t columns);

/* Every column tried once at least, as a search tries one candidate; an accepted step changes the whole gradient of its
 * row. */
double qp_descent_operations(int64_t rows, int64_t columns, int64_t steps);

/* `steps` candidates for each number: divide, round, multiply, subtract, square, add; with a block of H as the metric
 * the row of dᵀ H_g that the number belongs to, 2 group, in place of the last two. group = 0: no such metric. */
double qp_search_operations(int64_t numbers, int64_t steps, int64_t group);

#endif
