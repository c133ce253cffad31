#include "libstage/solvers/gptq.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "kernels/scratch.h"
#include "libstage/base/memory.h"
#include "libstage/solvers/gptq_rows.h"
#include "libstage/tensor/operations.h"

/* Rows that a thread takes at once, so many that products are large and few enough for the cache. */
enum { MOST_ROWS = 256, LEAST_ROWS = 128, FEWEST_ROWS = 64, PARTS = 8, NUMBERS = 3 << 19, STEP = 32 };

/* ---- the factor ---- */

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

/* r = the Hessian in the order of the columns, `added` on its diagonal. */
static void fill(struct qp_gptq *s, const float *h, double added, float *r)
{
    int64_t n = s->in;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        int64_t row = qp_gptq_column(s, i);
        for (int64_t j = 0; j < n; j++)
            r[i * n + j] = h[row * n + qp_gptq_column(s, j)];
        r[i * n + i] = diagonal(n, h, row) + (float)added;
        s->added[i] = r[i * n + i] - h[row * n + row];
    }
}

static int factor(struct qp_gptq *s, const struct qp_kernels *kernels, const float *h, double *damping, float *r,
                  struct qp_error *err)
{
    double mean = mean_diagonal(s->in, h);
    if (mean < 0.0)
        return qp_fail(err, QP_ERR_INPUT, "the Hessian is not finite; the calibration data overflows the network");
    for (;; *damping *= 10.0) {
        fill(s, h, *damping * mean, r);
        int64_t minor = kernels->factor(s->in, r);
        if (minor == 0)
            return 0;
        if (*damping * 10.0 > 1.0)
            return qp_fail(err, QP_ERR_INPUT,
                           "the Hessian is not positive definite (leading minor %lld of %lld) with damping %g; "
                           "calibrate on more text, or use method: rtn",
                           (long long)minor, (long long)s->in, *damping);
    }
}

/* Signs of splitmix64 (Steele, Lea and Flood 2014), so that the sketch is always the same. */
static void fill_signs(int64_t count, float *signs)
{
    uint64_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        uint64_t z = state += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        signs[i] = (z ^ z >> 31) & 1 ? 1.0f : -1.0f;
    }
}

/* Johnson and Lindenstrauss: the mean of the squares of d (signs Rᵀ)ᵀ estimates |d R|². */
static int make_sketch(struct qp_gptq *s, const struct qp_kernels *kernels, const float *r, struct qp_error *err)
{
    int64_t n = s->in;
    if (n < QP_SKETCHED)
        return 0;
    float *signs = qp_new_floats(QP_SKETCH * n, "a sketch", err);
    s->sketch = qp_new_floats(QP_SKETCH * n, "a sketch", err);
    int result = signs && s->sketch ? 0 : QP_ERR_SPACE;
    if (result == 0) {
        fill_signs(QP_SKETCH * n, signs);
        kernels->gemm(&(struct qp_gemm){false, true, QP_SKETCH, n, n, 1.0f, signs, n, r, n, 0.0f, s->sketch, n});
    }
    free(signs);
    return result;
}

static int open_solver(struct qp_gptq *s, const struct qp_kernels *kernels, const float *h, double *damping,
                       struct qp_error *err)
{
    float *r = qp_new_floats(qp_factor_size(kernels, s->in), "a factor of the Hessian", err);
    s->added = qp_new_floats(s->in, "damping", err);
    s->factor.r = r;
    int result = r && s->added ? qp_order_columns(s->kind, s->in, s->group, h, &s->order, err) : QP_ERR_SPACE;
    if (result == 0)
        result = factor(s, kernels, h, damping, r, err);
    if (result == 0)
        result = make_sketch(s, kernels, r, err);
    if (result == 0)
        qp_factor_take(&s->factor, kernels, s->in, r);
    return result;
}

int qp_gptq_open(const struct qp_kernels *kernels, int64_t in, const float *h, const struct qp_gptq_columns *columns,
                 double *damping, struct qp_gptq **out, struct qp_error *err)
{
    struct qp_gptq *s = calloc(1, sizeof *s);
    if (!s)
        return qp_fail_memory(err, sizeof *s, "a solver");
    *s = (struct qp_gptq){.in = in, .block = columns->block, .group = columns->group, .kind = columns->order};
    int r = open_solver(s, kernels, h, damping, err);
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
    free(solver->factor.r);
    free(solver->order);
    free(solver->added);
    free(solver->sketch);
    free(solver);
}

bool qp_gptq_serves(const struct qp_gptq *solver, int64_t group)
{
    return solver->kind != QP_ORDER_GROUP || solver->group == group;
}

/* ---- a matrix ---- */

/* What all rows have in common. */
struct plan {
    struct qp_gptq_rows base;
    int64_t *bounds;
    int32_t *group_of;
    float *diagonals;
    int64_t rows; /* that a thread takes at once */
    const struct qp_gptq_rest *rest;
};

/* Blocks end with their group when scales are set on entering one: all errors before it have to be in its weights. */
static void set_bounds(struct plan *p)
{
    const struct qp_gptq *s = p->base.s;
    int64_t blocks = 0, start = 0;
    for (int64_t at = 0; at < s->in; at++) {
        bool enters = p->base.rescale && at > 0 && p->group_of[at] != p->group_of[at - 1];
        start = enters ? at : start;
        if ((at - start) % s->block == 0)
            p->bounds[blocks++] = at;
    }
    p->bounds[blocks] = s->in;
    p->base.blocks = blocks;
    for (int64_t b = 0; b < blocks; b++)
        p->base.widest =
            p->bounds[b + 1] - p->bounds[b] > p->base.widest ? p->bounds[b + 1] - p->bounds[b] : p->base.widest;
}

static int set_diagonals(struct plan *p, struct qp_error *err)
{
    int64_t square = p->base.widest * p->base.widest;
    p->diagonals = qp_new_floats(p->base.blocks * square, "blocks of a factor", err);
    if (!p->diagonals)
        return QP_ERR_SPACE;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < p->base.blocks; b++)
        qp_factor_diagonal(&p->base.s->factor, p->bounds[b], p->bounds[b + 1] - p->bounds[b],
                           p->diagonals + b * square);
    p->base.diagonals = p->diagonals;
    return 0;
}

/* From the shape alone, for products of other heights may sum in another order. */
static int64_t rows_at_once(int64_t rows, int64_t in)
{
    int64_t cached = NUMBERS / (in + 1) / STEP * STEP, even = (rows / PARTS + STEP - 1) / STEP * STEP;
    int64_t most = cached < LEAST_ROWS ? LEAST_ROWS : cached > MOST_ROWS ? MOST_ROWS : cached;
    int64_t wanted = even < FEWEST_ROWS ? FEWEST_ROWS : even > most ? most : even;
    return wanted < rows ? wanted : rows;
}

static int open_plan(struct plan *p, struct qp_error *err)
{
    const struct qp_gptq *s = p->base.s;
    const struct qp_quantized *q = p->base.q;
    p->bounds = qp_new_array(s->in + 1, sizeof *p->bounds, "blocks of columns", err);
    p->group_of = qp_new_array(s->in, sizeof *p->group_of, "the groups of columns", err);
    if (!p->bounds || !p->group_of)
        return QP_ERR_SPACE;
    for (int64_t i = 0; i < s->in; i++)
        p->group_of[i] = q->group > 0 ? (int32_t)(qp_gptq_column(s, i) / q->group) : 0;
    set_bounds(p);
    p->base.bounds = p->bounds;
    p->base.group_of = p->group_of;
    p->base.groups = qp_groups(s->in, q->group);
    p->rows = p->base.rescale ? q->rows : rows_at_once(q->rows, s->in);
    return set_diagonals(p, err);
}

/* The parts of a thread's workspace: `size` bytes each, one after the other. */
static void *take(char **memory, int64_t count, size_t size)
{
    void *part = *memory;
    if (*memory)
        *memory += ((size_t)count * size + 63) / 64 * 64;
    return part;
}

static void place(const struct plan *p, struct qp_gptq_rows *v, char **memory, float **scale, int8_t **zero)
{
    int64_t n = v->s->in, count = p->rows * n;
    int64_t tiles = qp_factor_rows_size(&v->s->factor, p->rows);
    bool ordered = v->s->order || p->rest;
    v->deviation.x = take(memory, count, sizeof(float));
    v->deviation.tiles = tiles ? take(memory, tiles, sizeof(float)) : NULL;
    v->ordered = ordered ? take(memory, count, sizeof(float)) : NULL;
    v->ordered_codes = ordered ? take(memory, count, 1) : NULL;
    v->block = take(memory, p->rows * v->widest, sizeof(float));
    *scale = take(memory, p->rows, sizeof(float));
    *zero = take(memory, p->rows, 1);
    if (!p->rest)
        return;
    v->error = take(memory, count, sizeof(float));
    v->other = (struct qp_factor_rows){v->ordered, v->deviation.tiles};
    v->other_error = take(memory, count, sizeof(float));
    v->other_codes = v->ordered_codes;
    v->likely = take(memory, p->rows, sizeof(int64_t));
}

static size_t workspace_bytes(const struct plan *p)
{
    size_t count = (size_t)(p->rows * p->base.s->in), block = (size_t)(p->rows * p->base.widest);
    size_t ordered = p->base.s->order || p->rest ? count * (sizeof(float) + 1) : 0;
    size_t rest = p->rest ? count * 2 * sizeof(float) + (size_t)p->rows * sizeof(int64_t) : 0;
    size_t tiles = (size_t)qp_factor_rows_size(&p->base.s->factor, p->rows);
    return (count + tiles + block) * sizeof(float) + ordered + rest + (size_t)p->rows * 5 + 16 * 64;
}

/* Rows [first, first + v->rows) of the matrix. One scale for all is copied to each of them, as kernels want it. */
static int solve_rows(const struct plan *p, struct qp_gptq_rows *v, int64_t first, float *scale, int8_t *zero,
                      struct qp_error *err)
{
    const struct qp_quantized *q = v->q;
    int64_t n = v->s->in;
    v->first = first;
    v->w = p->base.w + first * n;
    v->codes = p->base.codes + first * n;
    v->scale = q->scale + (q->group > 0 ? first * v->groups : 0);
    v->zero = q->zero ? q->zero + (q->group > 0 ? first * v->groups : 0) : NULL;
    for (int64_t i = 0; i < v->rows && q->group == 0; i++) {
        scale[i] = q->scale[0];
        zero[i] = q->zero ? q->zero[0] : 0;
    }
    if (q->group == 0) {
        v->scale = scale;
        v->zero = q->zero ? zero : NULL;
    }
    int r = qp_gptq_round(v, err);
    if (r < 0 || !p->rest)
        return r;
    qp_gptq_take_nearest(v, p->rest->loss + first);
    qp_gptq_gradient(v, p->rest->gradient + first * n);
    return 0;
}

/* With `rescale` all rows go through the columns together, else as many at a time as a thread takes. */
static int solve(const struct plan *p, struct qp_error *err)
{
    int64_t rows = p->base.q->rows;
    int result = 0;
#pragma omp parallel if (rows > p->rows)
    {
        struct qp_gptq_rows v = p->base;
        struct qp_error mine;
        float *scale = NULL;
        int8_t *zero = NULL;
        char *memory = qp_scratch(workspace_bytes(p), 1), *end = memory;
        if (memory)
            place(p, &v, &end, &scale, &zero);
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < rows; first += p->rows) {
            if (!memory || qp_failure_is_set())
                continue;
            v.rows = rows - first < p->rows ? rows - first : p->rows;
            int r = solve_rows(p, &v, first, scale, zero, &mine);
#pragma omp critical
            if (r < 0 && result == 0) {
                result = r;
                *err = mine;
            }
        }
        free(memory);
    }
    return result < 0 ? result : qp_operations_go_on(err);
}

int qp_gptq_solve(const struct qp_gptq *solver, const struct qp_quantized *q, const float *w, uint8_t *codes,
                  const struct qp_rescale *rescale, const struct qp_gptq_rest *rest, struct qp_error *err)
{
    struct plan p = {.base = {.s = solver,
                              .q = q,
                              .w = w,
                              .codes = codes,
                              .rescale = rescale ? rescale->set : NULL,
                              .context = rescale ? rescale->context : NULL},
                     .rest = rest};
    int r = open_plan(&p, err);
    if (r == 0 && q->rows > 0)
        r = solve(&p, err);
    free(p.bounds);
    free(p.group_of);
    free(p.diagonals);
    return r;
}
