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

/* What is factored: h[n, n], or a triangle. diagonal: [n], of either. */
struct source {
    const struct qp_kernels *kernels;
    const float *h;
    const struct qp_packed_hessian *packed;
    float *diagonal;
};

static void read_diagonal(const struct source *from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        from->diagonal[i] = from->h ? from->h[i * n + i] : qp_packed_diagonal(from->packed, n, i);
}

/* The diagonal of a column that was never seen counts as 1. */
static float seen(float diagonal)
{
    return diagonal == 0.0f ? 1.0f : diagonal;
}

/* Mean of the diagonal; negative when it is not finite. */
static double mean_diagonal(int64_t n, const float *diagonal)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += seen(diagonal[i]);
    return isfinite(sum) ? sum / (double)n : -1.0;
}

/* r = h in the order of the columns. */
static void fill_square(const struct qp_gptq *s, const float *h, float *r)
{
    int64_t n = s->in;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const float *row = h + qp_gptq_column(s, i) * n;
        for (int64_t j = 0; j < n; j++)
            r[i * n + j] = row[qp_gptq_column(s, j)];
    }
}

/* The same of a triangle: r's upper one, then that mirrored. place[n]: where a column is in the order. */
static void fill_triangle(const struct qp_gptq *s, const struct source *from, const int64_t *place, float *r)
{
    int64_t n = s->in;
    const float *fold = from->packed->fold;
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < n; i++) {
        const float *row = from->packed->rows + qp_triangle_row(n, i) - i;
        for (int64_t j = i; j < n; j++) {
            int64_t first = place[i] < place[j] ? place[i] : place[j], second = place[i] + place[j] - first;
            r[first * n + second] = fold ? row[j] / (fold[i] * fold[j]) : row[j];
        }
    }
    from->kernels->mirror(n, r);
}

/* r = what is factored in the order of the columns, `added` on its diagonal. */
static void fill(struct qp_gptq *s, const struct source *from, const int64_t *place, double added, float *r)
{
    int64_t n = s->in;
    if (from->h)
        fill_square(s, from->h, r);
    else
        fill_triangle(s, from, place, r);
    for (int64_t i = 0; i < n; i++) {
        float own = from->diagonal[qp_gptq_column(s, i)];
        r[i * n + i] = seen(own) + (float)added;
        s->added[i] = r[i * n + i] - own;
    }
}

static int factor(struct qp_gptq *s, const struct source *from, const int64_t *place, double *damping, float *r,
                  struct qp_error *err)
{
    double mean = mean_diagonal(s->in, from->diagonal);
    if (mean < 0.0)
        return qp_fail(err, QP_ERR_INPUT, "the Hessian is not finite; the calibration data overflows the network");
    for (;; *damping *= 10.0) {
        fill(s, from, place, *damping * mean, r);
        int64_t minor = from->kernels->factor(s->in, r);
        if (minor == 0)
            return 0;
        if (*damping * 10.0 > 1.0)
            return qp_fail(err, QP_ERR_INPUT,
                           "the Hessian is not positive definite (leading minor %lld of %lld) with damping %g; "
                           "calibrate on more text, or use method: rtn",
                           (long long)minor, (long long)s->in, *damping);
    }
}

/* Columns in their order, and the factor in it. */
static int order_and_factor(struct qp_gptq *s, const struct source *from, double *damping, float *r,
                            struct qp_error *err)
{
    read_diagonal(from, s->in);
    int64_t *place = qp_new_array(s->in, sizeof *place, "the order of columns", err);
    int result = place ? qp_order_by_diagonal(s->kind, s->in, s->group, from->diagonal, &s->order, err) : QP_ERR_SPACE;
    for (int64_t i = 0; result == 0 && i < s->in; i++)
        place[qp_gptq_column(s, i)] = i;
    if (result == 0)
        result = factor(s, from, place, damping, r, err);
    free(place);
    return result;
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

static int open_solver(struct qp_gptq *s, struct source *from, double *damping, struct qp_error *err)
{
    const struct qp_kernels *kernels = from->kernels;
    float *r = qp_new_floats(qp_factor_size(kernels, s->in), "a factor of the Hessian", err);
    s->added = qp_new_floats(s->in, "damping", err);
    s->factor.r = r;
    from->diagonal = qp_new_floats(s->in, "a Hessian's diagonal", err);
    int result = r && s->added && from->diagonal ? order_and_factor(s, from, damping, r, err) : QP_ERR_SPACE;
    free(from->diagonal);
    if (result == 0)
        result = make_sketch(s, kernels, r, err);
    if (result == 0)
        qp_factor_take(&s->factor, kernels, s->in, r);
    return result;
}

static int open_from(struct source *from, int64_t in, const struct qp_gptq_columns *columns, double *damping,
                     struct qp_gptq **out, struct qp_error *err)
{
    struct qp_gptq *s = calloc(1, sizeof *s);
    if (!s)
        return qp_fail_memory(err, sizeof *s, "a solver");
    *s = (struct qp_gptq){.in = in, .block = columns->block, .group = columns->group, .kind = columns->order};
    int r = open_solver(s, from, damping, err);
    if (r < 0) {
        qp_gptq_close(s);
        return r;
    }
    *out = s;
    return 0;
}

int qp_gptq_open(const struct qp_kernels *kernels, int64_t in, const float *h, const struct qp_gptq_columns *columns,
                 double *damping, struct qp_gptq **out, struct qp_error *err)
{
    return open_from(&(struct source){.kernels = kernels, .h = h}, in, columns, damping, out, err);
}

int qp_gptq_open_packed(const struct qp_kernels *kernels, int64_t in, const struct qp_packed_hessian *h,
                        const struct qp_gptq_columns *columns, double *damping, struct qp_gptq **out,
                        struct qp_error *err)
{
    return open_from(&(struct source){.kernels = kernels, .packed = h}, in, columns, damping, out, err);
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

/* Of `rows` rows of `in` columns and blocks of up to `widest`; tiles: numbers of the parts of split rows. */
static size_t workspace_of(int64_t rows, int64_t in, int64_t widest, int64_t tiles, bool ordered, bool rest)
{
    size_t count = (size_t)(rows * in);
    return (count + (size_t)tiles + (size_t)(rows * widest)) * sizeof(float) +
           (ordered ? count * (sizeof(float) + 1) : 0) +
           (rest ? count * 2 * sizeof(float) + (size_t)rows * sizeof(int64_t) : 0) + (size_t)rows * 5 + 16 * 64;
}

static size_t workspace_bytes(const struct plan *p)
{
    return workspace_of(p->rows, p->base.s->in, p->base.widest, qp_factor_rows_size(&p->base.s->factor, p->rows),
                        p->base.s->order || p->rest, p->rest != NULL);
}

double qp_gptq_factor_bytes(const struct qp_kernels *kernels, int64_t in)
{
    return (double)sizeof(float) * (double)(qp_factor_size(kernels, in) + (in < QP_SKETCHED ? 0 : QP_SKETCH * in));
}

double qp_gptq_solve_bytes(const struct qp_kernels *kernels, int64_t rows, int64_t in, int64_t block, bool rest)
{
    int64_t most = rows_at_once(rows, in), widest = block < in ? block : in, parts = (rows + most - 1) / most;
    int64_t threads = parts < omp_get_max_threads() ? parts : omp_get_max_threads();
    int64_t tiles = kernels->split_products ? qp_tiles_size(most, in) : 0, blocks = (in + widest - 1) / widest;
    return (double)threads * (double)workspace_of(most, in, widest, tiles, true, rest) +
           (double)sizeof(float) * (double)(blocks * widest * widest);
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
