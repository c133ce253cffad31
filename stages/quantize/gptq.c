#include "stages/quantize/gptq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"

struct qp_gptq {
    const struct qp_kernels *kernels;
    int64_t in, block;
    float *u;       /* [in, in], in the order of the columns */
    int64_t *order; /* order[i]: the column that is rounded i-th; NULL: natural */
};

struct ranked {
    float key;
    int64_t column;
};

static int by_falling_key(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->key != y->key)
        return x->key > y->key ? -1 : 1;
    return x->column < y->column ? -1 : 1;
}

static int rank_columns(int64_t n, const float *h, int64_t **order, struct qp_error *err)
{
    struct ranked *ranks = qp_new_array(n, sizeof *ranks, "the order of columns", err);
    *order = qp_new_array(n, sizeof **order, "the order of columns", err);
    if (!ranks || !*order) {
        free(ranks);
        return QP_ERR_ROOM;
    }
    for (int64_t i = 0; i < n; i++)
        ranks[i] = (struct ranked){h[i * n + i], i};
    qsort(ranks, (size_t)n, sizeof *ranks, by_falling_key);
    for (int64_t i = 0; i < n; i++)
        (*order)[i] = ranks[i].column;
    free(ranks);
    return 0;
}

static int permute(int64_t n, const int64_t *order, float **h, struct qp_error *err)
{
    float *p = qp_new_floats(n * n, "a permuted second moment", err);
    if (!p)
        return QP_ERR_ROOM;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            p[i * n + j] = (*h)[order[i] * n + order[j]];
    free(*h);
    *h = p;
    return 0;
}

/* Mean of the diagonal after unseen columns were given a 1; negative when it is not finite. */
static double prepare_diagonal(int64_t n, float *h)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        if (h[i * n + i] == 0.0f)
            h[i * n + i] = 1.0f;
        sum += h[i * n + i];
    }
    return isfinite(sum) ? sum / (double)n : -1.0;
}

static int factor(struct qp_gptq *s, const float *h, double mean, double *damping, struct qp_error *err)
{
    int64_t n = s->in;
    for (;; *damping *= 10.0) {
        memcpy(s->u, h, (size_t)(n * n) * sizeof *h);
        for (int64_t i = 0; i < n; i++)
            s->u[i * n + i] += (float)(*damping * mean);
        int64_t minor = s->kernels->inverse_factor(n, s->u);
        if (minor == 0)
            return 0;
        if (*damping * 10.0 > 1.0)
            return qp_fail(err, QP_ERR_INPUT,
                           "the second moment is not positive definite (leading minor %lld of %lld) with damping %g; "
                           "calibrate on more text, or use method: rtn",
                           (long long)minor, (long long)n, *damping);
    }
}

int qp_gptq_open(const struct qp_kernels *kernels, int64_t in, float *h, int64_t block, bool by_activation,
                 double *damping, struct qp_gptq **out, struct qp_error *err)
{
    struct qp_gptq *s = calloc(1, sizeof *s);
    int r = s ? 0 : qp_fail_memory(err, sizeof *s, "a solver");
    double mean = r == 0 ? prepare_diagonal(in, h) : 0.0;
    if (mean < 0.0)
        r = qp_fail(err, QP_ERR_INPUT, "the second moment is not finite; the calibration data overflows the network");
    if (r == 0) {
        *s = (struct qp_gptq){.kernels = kernels, .in = in, .block = block};
        s->u = qp_new_floats(in * in, "a factor of the second moment", err);
        r = s->u ? 0 : QP_ERR_ROOM;
    }
    if (r == 0 && by_activation && (r = rank_columns(in, h, &s->order, err)) == 0)
        r = permute(in, s->order, &h, err);
    if (r == 0)
        r = factor(s, h, mean, damping, err);
    free(h);
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

/* The kernel wants scales by row: one scale for the whole matrix is copied to each of them. */
static int scales_by_row(const struct qp_quantized *q, struct qp_quantized *out, float **scale, int8_t **zero,
                         struct qp_error *err)
{
    *out = *q;
    if (q->group > 0)
        return 0;
    *scale = qp_new_floats(q->rows, "scales", err);
    *zero = qp_new_array(q->rows, 1, "zero points", err);
    if (!*scale || !*zero)
        return QP_ERR_ROOM;
    for (int64_t r = 0; r < q->rows; r++) {
        (*scale)[r] = q->scale[0];
        (*zero)[r] = q->zero ? q->zero[0] : 0;
    }
    out->scale = *scale;
    out->zero = q->zero ? *zero : NULL;
    return 0;
}

/* Copies columns into the order of the solver (forward) or back; `bytes` an element. */
static void reorder(const int64_t *order, int64_t rows, int64_t cols, size_t bytes, bool forward, const char *from,
                    char *to)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++) {
            size_t ordered = (size_t)(r * cols + i) * bytes, natural = (size_t)(r * cols + order[i]) * bytes;
            memcpy(to + (forward ? ordered : natural), from + (forward ? natural : ordered), bytes);
        }
}

/* The solve on columns that already are in the solver's order; group_of[i] belongs to the i-th of them. */
static void solve_ordered(const struct qp_gptq *s, const struct qp_quantized *q, const int32_t *group_of, float *w,
                          uint8_t *codes, float *error)
{
    int64_t n = s->in;
    for (int64_t at = 0; at < n; at += s->block) {
        int64_t count = n - at < s->block ? n - at : s->block, rest = n - at - count;
        struct qp_gptq_block b = {.grid = &q->grid,
                                  .rows = q->rows,
                                  .count = count,
                                  .groups = qp_groups(n, q->group),
                                  .w = w + at,
                                  .w_stride = n,
                                  .u = s->u + at * n + at,
                                  .u_stride = n,
                                  .scale = q->scale,
                                  .zero = q->zero,
                                  .group_of = group_of + at,
                                  .codes = codes + at,
                                  .codes_stride = n,
                                  .error = error};
        s->kernels->gptq_block(&b);
        if (rest > 0)
            s->kernels->gemm(false, false, q->rows, rest, count, -1.0f, error, count, s->u + at * n + at + count, n,
                             1.0f, w + at + count, n);
    }
}

int qp_gptq_solve(const struct qp_gptq *s, const struct qp_quantized *q, float *w, uint8_t *codes, struct qp_error *err)
{
    int64_t n = s->in, size = q->rows * n;
    int64_t widest = s->block < n ? s->block : n;
    int32_t *group_of = qp_new_array(n, sizeof *group_of, "the groups of columns", err);
    float *error = qp_new_floats(q->rows * widest, "a block's errors", err);
    float *ordered = s->order ? qp_new_floats(size, "reordered weights", err) : w;
    uint8_t *ordered_codes = s->order ? qp_new_array(size, 1, "reordered codes", err) : codes;
    struct qp_quantized by_row;
    float *scale = NULL;
    int8_t *zero = NULL;
    int r = group_of && error && ordered && ordered_codes ? 0 : QP_ERR_ROOM;
    if (r == 0)
        r = scales_by_row(q, &by_row, &scale, &zero, err);
    if (r == 0) {
        for (int64_t i = 0; i < n; i++)
            group_of[i] = q->group > 0 ? (int32_t)((s->order ? s->order[i] : i) / q->group) : 0;
        if (s->order)
            reorder(s->order, q->rows, n, sizeof *w, true, (const char *)w, (char *)ordered);
        solve_ordered(s, &by_row, group_of, ordered, ordered_codes, error);
        if (s->order)
            reorder(s->order, q->rows, n, 1, false, (const char *)ordered_codes, (char *)codes);
    }
    if (s->order) {
        free(ordered);
        free(ordered_codes);
    }
    free(group_of);
    free(error);
    free(scale);
    free(zero);
    return r;
}
