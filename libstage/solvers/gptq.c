#include "libstage/solvers/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/memory.h"
#include "libstage/tensor/operations.h"

struct qp_gptq {
    const struct qp_kernels *kernels;
    int64_t in, block, group;
    enum qp_order kind;
    int64_t *order; /* order[i]: the column that is rounded i-th; NULL: natural */
    float *u;       /* [in, in], in the order of the columns */
};

/* The diagonal of a column that was never seen counts as 1. */
static float diagonal(int64_t n, const float *h, int64_t i)
{
    float d = h[i * n + i];
    return d == 0.0f ? 1.0f : d;
}

/* Mean of the diagonal; negative when it is not finite. */
static double mean_diagonal(int64_t n, const float *h)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += diagonal(n, h, i);
    return isfinite(sum) ? sum / (double)n : -1.0;
}

/* u = the Hessian in the order of the columns, `added` on its diagonal. */
static void fill(struct qp_gptq *s, const float *h, double added)
{
    int64_t n = s->in;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        int64_t row = s->order ? s->order[i] : i;
        for (int64_t j = 0; j < n; j++)
            s->u[i * n + j] = h[row * n + (s->order ? s->order[j] : j)];
        s->u[i * n + i] = diagonal(n, h, row) + (float)added;
    }
}

static int factor(struct qp_gptq *s, const float *h, double *damping, struct qp_error *err)
{
    double mean = mean_diagonal(s->in, h);
    if (mean < 0.0)
        return qp_fail(err, QP_ERR_INPUT, "the Hessian is not finite; the calibration data overflows the network");
    for (;; *damping *= 10.0) {
        fill(s, h, *damping * mean);
        int64_t minor = s->kernels->inverse_factor(s->in, s->u);
        if (minor == 0)
            return 0;
        if (*damping * 10.0 > 1.0)
            return qp_fail(err, QP_ERR_INPUT,
                           "the Hessian is not positive definite (leading minor %lld of %lld) with damping %g; "
                           "calibrate on more text, or use method: rtn",
                           (long long)minor, (long long)s->in, *damping);
    }
}

int qp_gptq_open(const struct qp_kernels *kernels, int64_t in, const float *h, int64_t block, enum qp_order order,
                 int64_t group, double *damping, struct qp_gptq **out, struct qp_error *err)
{
    struct qp_gptq *s = calloc(1, sizeof *s);
    if (!s)
        return qp_fail_memory(err, sizeof *s, "a solver");
    *s = (struct qp_gptq){.kernels = kernels, .in = in, .block = block, .group = group, .kind = order};
    s->u = qp_new_floats(in * in, "a factor of the Hessian", err);
    int r = s->u ? qp_order_columns(order, in, group, h, &s->order, err) : QP_ERR_SPACE;
    if (r == 0)
        r = factor(s, h, damping, err);
    if (r < 0) {
        qp_gptq_close(s);
        return r;
    }
    *out = s;
    return 0;
}

void qp_gptq_close(struct qp_gptq *solver)
{
    if (!solver)
        return;
    free(solver->u);
    free(solver->order);
    free(solver);
}

bool qp_gptq_serves(const struct qp_gptq *solver, int64_t group)
{
    return solver->kind != QP_ORDER_GROUP || solver->group == group;
}

/* What one matrix is solved with. Matrices are in the order of the columns; scales are [rows, groups]. */
struct solve {
    const struct qp_gptq *s;
    const struct qp_quantized *q;
    int64_t groups;
    int32_t *group_of; /* [in], of the i-th column */
    float *w, *error, *scale;
    int8_t *zero;
    uint8_t *codes;
    qp_rescale_fn *rescale;
    void *context;
};

/* The kernel wants scales by row: one scale for the whole matrix is copied to each of them. */
static void spread_scales(struct solve *v)
{
    const struct qp_quantized *q = v->q;
    for (int64_t i = 0; i < q->rows * v->groups; i++) {
        v->scale[i] = q->scale[q->group > 0 ? i : 0];
        v->zero[i] = q->zero ? q->zero[q->group > 0 ? i : 0] : 0;
    }
}

/* Copies columns into the order of the solver (forward) or back; `bytes` an element. */
static void reorder(const int64_t *order, int64_t rows, int64_t cols, size_t bytes, bool forward, const char *from,
                    char *to)
{
    for (int64_t r = 0; r < rows && !qp_failure_is_set(); r++)
        for (int64_t i = 0; i < cols; i++) {
            size_t ordered = (size_t)(r * cols + i) * bytes, natural = (size_t)(r * cols + order[i]) * bytes;
            memcpy(to + (forward ? ordered : natural), from + (forward ? natural : ordered), bytes);
        }
}

/* Columns from `at` on that are of its group. */
static int64_t group_run(const struct solve *v, int64_t at)
{
    int64_t end = at;
    while (end < v->s->in && v->group_of[end] == v->group_of[at])
        end++;
    return end - at;
}

static int enter_group(struct solve *v, int64_t at, struct qp_error *err)
{
    int64_t n = v->s->in, rows = v->q->rows, count = group_run(v, at);
    float *w = qp_new_floats(rows * count, "a group's weights", err);
    int64_t *columns = qp_new_array(count, sizeof *columns, "a group's columns", err);
    int r = w && columns ? 0 : QP_ERR_SPACE;
    if (r == 0) {
        for (int64_t i = 0; i < count; i++)
            columns[i] = v->s->order ? v->s->order[at + i] : at + i;
        for (int64_t i = 0; i < rows; i++)
            memcpy(w + i * count, v->w + i * n + at, (size_t)count * sizeof *w);
        r = v->rescale(v->context, v->group_of[at], count, columns, w, err);
        spread_scales(v);
    }
    free(w);
    free(columns);
    return r;
}

/* Rounds columns [at, at + count), and spreads their errors over all that follow. */
static void solve_block(const struct solve *v, int64_t at, int64_t count)
{
    int64_t n = v->s->in, rest = n - at - count;
    const float *u = v->s->u + at * n + at;
    struct qp_gptq_block b = {.format = &v->q->format,
                              .rows = v->q->rows,
                              .count = count,
                              .groups = v->groups,
                              .w = v->w + at,
                              .w_stride = n,
                              .u = u,
                              .u_stride = n,
                              .scale = v->scale,
                              .zero = v->q->zero ? v->zero : NULL,
                              .group_of = v->group_of + at,
                              .codes = v->codes + at,
                              .codes_stride = n,
                              .error = v->error};
    v->s->kernels->gptq_block(&b);
    if (rest > 0)
        v->s->kernels->gemm(false, false, v->q->rows, rest, count, -1.0f, v->error, count, u + count, n, 1.0f,
                            v->w + at + count, n);
}

/* Blocks end with their group when scales are set on entering one: all errors before it have to be in its weights. */
static int solve_ordered(struct solve *v, struct qp_error *err)
{
    int64_t n = v->s->in;
    int r = 0;
    for (int64_t at = 0, count; at < n && r == 0; at += count) {
        count = n - at < v->s->block ? n - at : v->s->block;
        if (v->rescale) {
            int64_t run = group_run(v, at);
            count = count < run ? count : run;
            if (at == 0 || v->group_of[at] != v->group_of[at - 1])
                r = enter_group(v, at, err);
        }
        if (r == 0)
            r = qp_operations_go_on(err);
        if (r == 0)
            solve_block(v, at, count);
    }
    return r;
}

static int open_solve(struct solve *v, const struct qp_quantized *q, float *w, uint8_t *codes, struct qp_error *err)
{
    const struct qp_gptq *s = v->s;
    int64_t widest = s->block < s->in ? s->block : s->in;
    v->groups = qp_groups(s->in, q->group);
    v->group_of = qp_new_array(s->in, sizeof *v->group_of, "the groups of columns", err);
    v->error = qp_new_floats(q->rows * widest, "a block's errors", err);
    v->scale = qp_new_floats(q->rows * v->groups, "scales", err);
    v->zero = qp_new_array(q->rows * v->groups, 1, "zero points", err);
    v->w = s->order ? qp_new_floats(q->rows * s->in, "reordered weights", err) : w;
    v->codes = s->order ? qp_new_array(q->rows * s->in, 1, "reordered codes", err) : codes;
    if (!v->group_of || !v->error || !v->scale || !v->zero || !v->w || !v->codes)
        return QP_ERR_SPACE;
    for (int64_t i = 0; i < s->in; i++)
        v->group_of[i] = q->group > 0 ? (int32_t)((s->order ? s->order[i] : i) / q->group) : 0;
    if (s->order)
        reorder(s->order, q->rows, s->in, sizeof *w, true, (const char *)w, (char *)v->w);
    spread_scales(v);
    return 0;
}

static void close_solve(struct solve *v)
{
    if (v->s->order) {
        free(v->w);
        free(v->codes);
    }
    free(v->group_of);
    free(v->error);
    free(v->scale);
    free(v->zero);
}

int qp_gptq_solve(const struct qp_gptq *solver, const struct qp_quantized *q, float *w, uint8_t *codes,
                  qp_rescale_fn *rescale, void *context, struct qp_error *err)
{
    struct solve v = {.s = solver, .q = q, .rescale = rescale, .context = context};
    int r = open_solve(&v, q, w, codes, err);
    if (r == 0)
        r = solve_ordered(&v, err);
    if (r == 0 && solver->order)
        reorder(solver->order, q->rows, solver->in, 1, false, (const char *)v.codes, (char *)codes);
    close_solve(&v);
    return r;
}
