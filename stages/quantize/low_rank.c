#include "stages/quantize/low_rank.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/tensor/operations.h"

/* Below this share of what it was, the rest of a diagonal of H is rounding. */
#define LEAST 1e-6f

static int round_to_dtype(const struct qp_block *block, int64_t count, float *v, struct qp_error *err)
{
    qp_auto_free void *stored = qp_new_array(count, sizeof *v, "rounded factors", err);
    if (!stored)
        return QP_ERR_SPACE;
    block->kernels->from_f32(block->arch->dtype, count, v, stored);
    block->kernels->to_f32(block->arch->dtype, count, stored, v);
    return 0;
}

/* Gives b's columns and a's rows the same lengths, so that no dtype's range is left on either side. */
static void balance(int64_t rows, int64_t cols, int64_t rank, float *b, float *a)
{
    for (int64_t k = 0; k < rank; k++) {
        double length = 0.0;
        for (int64_t j = 0; j < cols; j++)
            length += (double)a[k * cols + j] * a[k * cols + j];
        float root = (float)sqrt(sqrt(length)); /* b's columns have length 1 */
        for (int64_t j = 0; j < cols && root > 0.0f; j++)
            a[k * cols + j] /= root;
        for (int64_t r = 0; r < rows; r++)
            b[r * rank + k] *= root;
    }
}

static int fit(const struct qp_site_work *work, struct qp_member *m, const float *e, const float *h,
               struct qp_error *err)
{
    const struct qp_block *block = work->block;
    struct qp_low_rank *low = &m->low_rank;
    if (qp_operations_go_on(err) < 0)
        return err->code;
    if (block->kernels->low_rank(m->q.rows, work->in, low->rank, e, h, low->b, low->a) < 0)
        return qp_fail(err, QP_ERR_INPUT, "layer %lld, %s: weights or Hessian are not finite", (long long)block->layer,
                       block->type->linears[m->linear].module);
    balance(m->q.rows, work->in, low->rank, low->b, low->a);
    int r = round_to_dtype(block, m->q.rows * low->rank, low->b, err);
    return r < 0 ? r : round_to_dtype(block, low->rank * work->in, low->a, err);
}

/* s[rank, rank] = a H aᵀ, with something on the diagonal where a row is 0 or repeats others. */
static void gram(const struct qp_kernels *k, int64_t in, int64_t rank, const float *ah, const float *a, float *s)
{
    k->gemm(&(struct qp_gemm){false, true, rank, rank, in, 1.0f, ah, in, a, in, 0.0f, s, rank});
    for (int64_t i = 0; i < rank; i++)
        s[i * rank + i] = s[i * rank + i] > 0.0f ? s[i * rank + i] * (1.0f + LEAST) : 1.0f;
}

/* x[rank, in] = R⁻¹ x, by substitution from the last row up, in blocks. */
static void substitute(const struct qp_kernels *k, int64_t in, int64_t rank, const float *r, float *x)
{
    enum { BLOCK = 32 };
    for (int64_t end = rank; end > 0; end = (end - 1) / BLOCK * BLOCK) {
        int64_t at = (end - 1) / BLOCK * BLOCK;
        k->gemm(&(struct qp_gemm){false, false, end - at, in, rank - end, -1.0f, r + at * rank + end, rank,
                                  x + end * in, in, 1.0f, x + at * in, in});
        for (int64_t i = end - 1; i >= at; i--)
            for (int64_t j = 0; j < in; j++) {
                float sum = x[i * in + j];
                for (int64_t c = i + 1; c < end; c++)
                    sum -= r[i * rank + c] * x[c * in + j];
                x[i * in + j] = sum / r[i * rank + i];
            }
    }
}

/* With s = a H aᵀ = R Rᵀ: low->h = H - (R⁻¹ a H)ᵀ (R⁻¹ a H). */
static int project(const struct qp_site_work *work, struct qp_low_rank *low, struct qp_error *err)
{
    const struct qp_kernels *k = work->block->kernels;
    int64_t in = work->in, rank = low->rank;
    qp_auto_free float *ah = qp_new_floats(rank * in, "a H", err);
    qp_auto_free float *s = qp_new_floats(rank * rank, "a H aᵀ", err);
    if (!ah || !s)
        return QP_ERR_SPACE;
    k->gemm(&(struct qp_gemm){false, false, rank, in, in, 1.0f, low->a, in, work->h, in, 0.0f, ah, in});
    gram(k, in, rank, ah, low->a, s);
    memcpy(low->h, work->h, (size_t)(in * in) * sizeof *low->h);
    if (k->factor(rank, s) != 0)
        return 0; /* a is worth nothing: all of H counts */
    substitute(k, in, rank, s, ah);
    k->gemm(&(struct qp_gemm){true, false, in, in, rank, -1.0f, ah, in, ah, in, 1.0f, low->h, in});
    k->mirror(in, low->h);
    for (int64_t i = 0; i < in; i++)
        low->h[i * in + i] = fmaxf(low->h[i * in + i], LEAST * work->h[i * in + i]);
    return 0;
}

int qp_low_rank_resplit(const struct qp_site_work *work, struct qp_member *m, struct qp_error *err)
{
    struct qp_low_rank *low = &m->low_rank;
    if (qp_operations_go_on(err) < 0)
        return err->code;
    memcpy(m->w, low->whole, (size_t)(m->q.rows * work->in) * sizeof *m->w);
    work->block->kernels->gemm(&(struct qp_gemm){false, false, m->q.rows, work->in, low->rank, -1.0f, low->b, low->rank,
                                                 low->a, work->in, 1.0f, m->w, work->in});
    return low->h ? project(work, low, err) : 0;
}

static int check_rank(const struct qp_site_work *work, const struct qp_member *m, int64_t rank, struct qp_error *err)
{
    int64_t most = m->q.rows < work->in ? m->q.rows : work->in;
    if (rank <= most)
        return 0;
    return qp_fail(err, QP_ERR_INPUT, "low_rank: found %lld, expected at most %lld, the smaller side of %s",
                   (long long)rank, (long long)most, work->block->type->linears[m->linear].module);
}

static void take_nothing(int64_t rows, int64_t cols, struct qp_low_rank *low)
{
    memset(low->a, 0, (size_t)(low->rank * cols) * sizeof *low->a);
    memset(low->b, 0, (size_t)(rows * low->rank) * sizeof *low->b);
}

int qp_low_rank_split(const struct qp_quantize_options *options, const struct qp_site_work *work, struct qp_member *m,
                      struct qp_error *err)
{
    bool rounded = m->scheme->activations.enabled;
    bool plain = qp_is(options->low_rank_fit, "weights") || (qp_is(options->low_rank_fit, "auto") && rounded);
    int64_t rank = options->low_rank, in = work->in, count = m->q.rows * in;
    struct qp_low_rank *low = &m->low_rank;
    int r = check_rank(work, m, rank, err);
    if (r < 0)
        return r;
    *low = (struct qp_low_rank){.rank = rank,
                                .whole = qp_new_floats(count, "a linear's weights", err),
                                .a = qp_new_floats(rank * in, "a low-rank factor", err),
                                .b = qp_new_floats(rank * m->q.rows, "a low-rank factor", err),
                                .h = work->h ? qp_new_floats(in * in, "what is left of a Hessian", err) : NULL};
    if (!low->whole || !low->a || !low->b || (work->h && !low->h))
        return QP_ERR_SPACE;
    memcpy(low->whole, m->w, (size_t)count * sizeof *m->w);
    m->h = low->h;
    if (qp_is(options->low_rank_fit, "errors"))
        take_nothing(m->q.rows, in, low);
    else
        r = fit(work, m, m->w, plain ? NULL : work->h, err);
    return r < 0 ? r : qp_low_rank_resplit(work, m, err);
}

int qp_low_rank_correct(const struct qp_site_work *work, struct qp_member *m, struct qp_error *err)
{
    const struct qp_quantized *q = &m->q;
    int64_t count = q->rows * q->cols;
    qp_auto_free float *e = qp_new_floats(count, "errors of weights", err);
    if (!e)
        return QP_ERR_SPACE;
    work->block->kernels->dequantize(&(struct qp_grouped){&q->format, q->rows, q->cols, q->group, q->scale, q->zero},
                                     q->codes, e);
    for (int64_t i = 0; i < count; i++)
        e[i] = m->low_rank.whole[i] - e[i];
    return fit(work, m, e, work->h, err);
}

void qp_low_rank_free(struct qp_low_rank *low)
{
    free(low->whole);
    free(low->a);
    free(low->b);
    free(low->h);
}
