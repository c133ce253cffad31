#include "libstage/solvers/gptq_rows.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/memory.h"
#include "libstage/tensor/operations.h"

/* ---- the column loop ---- */

/* Columns from block `b` on that are of its group. */
static int64_t group_run(const struct qp_gptq_rows *v, int64_t b)
{
    int64_t at = v->bounds[b], end = at;
    while (end < v->s->in && v->group_of[end] == v->group_of[at])
        end++;
    return end - at;
}

/* w[rows, count] = the weights of columns [at, at + count) as those before them leave them: on top of their own, what
 * takes the loss of the columns so far back by as much as the group can, by substitution. */
static void pending_weights(const struct qp_gptq_rows *v, int64_t at, int64_t count, const float *r, float *w)
{
    int64_t n = v->s->in;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < v->rows; i++) {
        float *row = w + i * count;
        memcpy(row, v->deviation.x + i * n + at, (size_t)count * sizeof *row);
        for (int64_t k = 0; k < count; k++) {
            float back = row[k] / r[k * count + k];
            for (int64_t j = k + 1; j < count; j++)
                row[j] -= back * r[k * count + j];
            row[k] = v->w[i * n + qp_gptq_column(v->s, at + k)] + back;
        }
    }
}

static int enter_group(struct qp_gptq_rows *v, int64_t b, struct qp_error *err)
{
    int64_t at = v->bounds[b], count = group_run(v, b);
    float *w = qp_new_floats(v->rows * count, "a group's weights", err);
    float *r = qp_new_floats(count * count, "a group's part of the factor", err);
    int64_t *columns = qp_new_array(count, sizeof *columns, "a group's columns", err);
    int result = w && r && columns ? 0 : QP_ERR_SPACE;
    if (result == 0) {
        for (int64_t i = 0; i < count; i++)
            columns[i] = qp_gptq_column(v->s, at + i);
        qp_factor_diagonal(&v->s->factor, at, count, r);
        pending_weights(v, at, count, r, w);
        result = v->rescale(v->context, v->group_of[at], count, columns, w, err);
    }
    free(w);
    free(r);
    free(columns);
    return result;
}

static const float *diagonal_of(const struct qp_gptq_rows *v, int64_t block)
{
    return v->diagonals + block * v->widest * v->widest;
}

static void round_block(const struct qp_gptq_rows *v, int64_t block)
{
    const struct qp_gptq *s = v->s;
    int64_t n = s->in, at = v->bounds[block], count = v->bounds[block + 1] - at;
    struct qp_gptq_block b = {.format = &v->q->format,
                              .rows = v->rows,
                              .count = count,
                              .groups = v->groups,
                              .w = (s->order ? v->ordered : v->w) + at,
                              .w_stride = n,
                              .s = v->deviation.x + at,
                              .s_stride = n,
                              .r = diagonal_of(v, block),
                              .r_stride = count,
                              .scale = v->scale,
                              .zero = v->zero,
                              .group_of = v->group_of + at,
                              .codes = (s->order ? v->ordered_codes : v->codes) + at,
                              .codes_stride = n,
                              .error = v->error ? v->error + at : NULL,
                              .error_stride = n};
    s->factor.kernels->gptq_block(&b);
    qp_factor_prepare(&s->factor, v->rows, &v->deviation, at, at + count);
}

/* Blocks [from, to): the first half, what it does to the second, the second half; so that most products are large. */
static int round_blocks(struct qp_gptq_rows *v, int64_t from, int64_t to, struct qp_error *err)
{
    int64_t at = v->bounds[from], middle = (from + to + 1) / 2;
    int r = 0;
    if (to - from == 1) {
        bool enters = v->rescale && (at == 0 || v->group_of[at] != v->group_of[at - 1]);
        if (enters)
            r = enter_group(v, from, err);
        if (r == 0 && !qp_failure_is_set())
            round_block(v, from);
        return r;
    }
    r = round_blocks(v, from, middle, err);
    if (r < 0)
        return r;
    qp_factor_add(&v->s->factor, v->rows, &v->deviation,
                  &(struct qp_factor_span){at, v->bounds[middle], v->bounds[middle], v->bounds[to]}, v->deviation.x);
    return round_blocks(v, middle, to, err);
}

/* A row at a time, which the first cache holds. */
static void order_weights(const struct qp_gptq_rows *v)
{
    int64_t n = v->s->in;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < v->rows; i++)
        for (int64_t k = 0; k < n; k++)
            v->ordered[i * n + k] = v->w[i * n + v->s->order[k]];
}

static void restore_codes(const struct qp_gptq_rows *v)
{
    int64_t n = v->s->in;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < v->rows; i++)
        for (int64_t k = 0; k < n; k++)
            v->codes[i * n + v->s->order[k]] = v->ordered_codes[i * n + k];
}

int qp_gptq_round(struct qp_gptq_rows *v, struct qp_error *err)
{
    int r = 0;
    memset(v->deviation.x, 0, (size_t)(v->rows * v->s->in) * sizeof *v->deviation.x);
    if (v->s->order)
        order_weights(v);
    if (v->s->in > 0)
        r = round_blocks(v, 0, v->blocks, err);
    if (r == 0 && v->s->order)
        restore_codes(v);
    return r;
}

/* ---- losses ---- */

/* Σ a b b, in sums that go on side by side. a NULL: ones. */
static double weighted_squares(int64_t count, const float *a, const float *b)
{
    enum { SUMS = 8 };
    double sum[SUMS] = {0}, all = 0.0;
    int64_t i = 0;
    for (; i + SUMS <= count; i += SUMS)
        for (int k = 0; k < SUMS; k++)
            sum[k] += (a ? (double)a[i + k] : 1.0) * b[i + k] * b[i + k];
    for (; i < count; i++)
        sum[i % SUMS] += (a ? (double)a[i] : 1.0) * b[i] * b[i];
    for (int k = 0; k < SUMS; k++)
        all += sum[k];
    return all;
}

/* Σ error² less what is due to damping. */
static double loss_of(const struct qp_gptq *s, const float *error, const float *deviation)
{
    return weighted_squares(s->in, NULL, error) - weighted_squares(s->in, s->added, deviation);
}

/* to[rows, n] in the order of the columns = w less what the codes, in the natural order, stand for. */
static void set_deviation(const struct qp_gptq_rows *v, const uint8_t *codes, float *scratch, float *to)
{
    int64_t n = v->s->in, group = v->q->group == 0 ? n : v->q->group;
    v->s->factor.kernels->dequantize(&(struct qp_grouped){&v->q->format, v->rows, n, group, v->scale, v->zero}, codes,
                                     scratch);
    for (int64_t i = 0; i < v->rows * n; i++)
        scratch[i] = v->w[i] - scratch[i];
    for (int64_t i = 0; i < v->rows; i++)
        for (int64_t k = 0; k < n; k++)
            to[i * n + k] = scratch[i * n + qp_gptq_column(v->s, k)];
}

/* Rows of v->other that may lose less than `loss` come first; v->likely says which they are. Returns how many. */
static int64_t likely_rows(struct qp_gptq_rows *v, const double *loss)
{
    const struct qp_gptq *s = v->s;
    int64_t n = s->in, count = 0;
    float *projected = v->other_error; /* [rows, QP_SKETCH], of which there are at most n */
    if (s->sketch) {
        memset(projected, 0, (size_t)(v->rows * QP_SKETCH) * sizeof *projected);
        s->factor.kernels->gemm(&(struct qp_gemm){false, true, v->rows, QP_SKETCH, n, 1.0f, v->other.x, n, s->sketch, n,
                                                  0.0f, projected, QP_SKETCH});
    }
    for (int64_t i = 0; i < v->rows; i++) {
        const float *deviation = v->other.x + i * n;
        double estimate = 0.0;
        for (int64_t k = 0; s->sketch && k < QP_SKETCH; k++)
            estimate += (double)projected[i * QP_SKETCH + k] * projected[i * QP_SKETCH + k] / QP_SKETCH;
        double damped = s->sketch ? weighted_squares(n, s->added, deviation) : 0.0;
        if (s->sketch && estimate / 1.5 - damped >= loss[i]) /* of 128 projections one in some thousand is so far off */
            continue;
        if (count < i)
            memcpy(v->other.x + count * n, deviation, (size_t)n * sizeof *deviation);
        v->likely[count++] = i;
    }
    return count;
}

/* v->other_error = x R of the first rows of v->other, in blocks as in the column loop. */
static void multiply_other(struct qp_gptq_rows *v, int64_t rows, int64_t from, int64_t to)
{
    const struct qp_factor *f = &v->s->factor;
    int64_t at = v->bounds[from], end = v->bounds[to], middle = (from + to + 1) / 2;
    if (to - from > 1) {
        multiply_other(v, rows, from, middle);
        qp_factor_add(f, rows, &v->other, &(struct qp_factor_span){at, v->bounds[middle], v->bounds[middle], end},
                      v->other_error);
        multiply_other(v, rows, middle, to);
        return;
    }
    f->kernels->gemm(&(struct qp_gemm){false, false, rows, end - at, end - at, 1.0f, v->other.x + at, f->n,
                                       diagonal_of(v, from), end - at, 1.0f, v->other_error + at, f->n});
}

static void take_row(struct qp_gptq_rows *v, int64_t to, int64_t from)
{
    int64_t n = v->s->in;
    memcpy(v->codes + to * n, v->other_codes + to * n, (size_t)n);
    memcpy(v->deviation.x + to * n, v->other.x + from * n, (size_t)n * sizeof(float));
    memcpy(v->error + to * n, v->other_error + from * n, (size_t)n * sizeof(float));
}

void qp_gptq_take_nearest(struct qp_gptq_rows *v, double *loss)
{
    int64_t n = v->s->in, group = v->q->group == 0 ? n : v->q->group;
    for (int64_t i = 0; i < v->rows; i++)
        loss[i] = loss_of(v->s, v->error + i * n, v->deviation.x + i * n);
    v->s->factor.kernels->quantize(&(struct qp_grouped){&v->q->format, v->rows, n, group, v->scale, v->zero}, v->w,
                                   v->other_codes);
    set_deviation(v, v->other_codes, v->other_error, v->other.x);
    int64_t count = likely_rows(v, loss);
    if (count == 0)
        return;
    qp_factor_prepare(&v->s->factor, count, &v->other, 0, n);
    memset(v->other_error, 0, (size_t)(count * n) * sizeof(float));
    multiply_other(v, count, 0, v->blocks);
    for (int64_t k = 0; k < count && !qp_failure_is_set(); k++) {
        double nearest = loss_of(v->s, v->other_error + k * n, v->other.x + k * n);
        if (nearest < loss[v->likely[k]]) {
            take_row(v, v->likely[k], k);
            loss[v->likely[k]] = nearest;
        }
    }
}

/* ---- the gradient ---- */

/* v->error = error Rᵀ, block by block from the first: what comes after a block is still as it was. */
static void multiply_errors(struct qp_gptq_rows *v, const struct qp_factor_rows *x, int64_t from, int64_t to)
{
    const struct qp_factor *f = &v->s->factor;
    int64_t at = v->bounds[from], end = v->bounds[to], middle = (from + to + 1) / 2, count = end - at;
    if (to - from > 1) {
        multiply_errors(v, x, from, middle);
        qp_factor_add(f, v->rows, x, &(struct qp_factor_span){v->bounds[middle], end, at, v->bounds[middle]}, v->error);
        multiply_errors(v, x, middle, to);
        return;
    }
    for (int64_t i = 0; i < v->rows; i++)
        memcpy(v->block + i * count, v->error + i * f->n + at, (size_t)count * sizeof(float));
    f->kernels->gemm(&(struct qp_gemm){false, true, v->rows, count, count, 1.0f, v->block, count, diagonal_of(v, from),
                                       count, 0.0f, v->error + at, f->n});
}

void qp_gptq_gradient(struct qp_gptq_rows *v, float *gradient)
{
    const struct qp_gptq *s = v->s;
    int64_t n = s->in;
    const struct qp_factor_rows x = {v->error, v->deviation.tiles};
    qp_factor_prepare(&s->factor, v->rows, &x, 0, n);
    multiply_errors(v, &x, 0, v->blocks);
    for (int64_t i = 0; i < v->rows; i++)
        for (int64_t k = 0; k < n; k++)
            gradient[i * n + qp_gptq_column(s, k)] = v->error[i * n + k] - s->added[k] * v->deviation.x[i * n + k];
}
