#include "kernels/counted.h"

#include <math.h>
#include <stddef.h>

#include "kernels/failure.h"
#include "kernels/work.h"

static struct qp_kernels inner; /* what does the work */

/* Counts an operation that is about to begin; false when it must not, after a failure or because the process is to
 * end. */
static bool count(enum qp_work_kind kind, double operations)
{
    if (qp_failure_is_set())
        return false;
    qp_kernels_take_threads();
    qp_work_add(kind, operations);
    return true;
}

static void gemm(const struct qp_gemm *g)
{
    if (count(QP_WORK_GEMM, qp_gemm_operations(g->m, g->n, g->k)))
        inner.gemm(g);
}

static void linear_bf16(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    if (count(QP_WORK_GEMM_BF16, qp_gemm_operations(m, n, k)))
        inner.linear_bf16(m, n, k, x, w, add, y);
}

static void linear_int8(const struct qp_linear_int8 *l)
{
    if (count(QP_WORK_GEMM_INT8, qp_gemm_operations(l->m, l->n, l->k)))
        inner.linear_int8(l);
}

static void linear_split(const struct qp_linear_split *l)
{
    if (count(QP_WORK_GEMM_BF16, qp_split_operations(l->m, l->end - l->into, l->to - l->from)))
        inner.linear_split(l);
}

static void attention(const struct qp_attention *a)
{
    if (count(QP_WORK_ATTENTION, qp_attention_operations(a->sequences, a->length, a->heads, a->dim, a->window)))
        inner.attention(a);
}

static void attention_bf16(const struct qp_attention *a, uint16_t *out)
{
    if (count(QP_WORK_ATTENTION_BF16, qp_attention_operations(a->sequences, a->length, a->heads, a->dim, a->window)))
        inner.attention_bf16(a, out);
}

static void hessian(int64_t rows, int64_t n, const float *x, float *h)
{
    if (count(QP_WORK_HESSIAN, qp_hessian_operations(rows, n)))
        inner.hessian(rows, n, x, h);
}

static void hessian_bf16(int64_t rows, int64_t n, const uint16_t *x, float *h)
{
    if (count(QP_WORK_HESSIAN_BF16, qp_hessian_operations(rows, n)))
        inner.hessian_bf16(rows, n, x, h);
}

static int64_t factor(int64_t n, float *h)
{
    if (count(QP_WORK_SOLVE, qp_factor_operations(n)))
        return inner.factor(n, h);
    return 0;
}

static void gptq_block(const struct qp_gptq_block *b)
{
    if (count(QP_WORK_SOLVE, qp_gptq_block_operations(b->rows, b->count)))
        inner.gptq_block(b);
}

static int64_t descent(const struct qp_descent *p)
{
    if (qp_failure_is_set())
        return 0;
    qp_kernels_take_threads();
    int64_t steps = inner.descent(p);
    qp_work_add(QP_WORK_SOLVE, qp_descent_operations(p->rows, p->cols, steps));
    return steps;
}

/* A sweep tries the numbers of the scale's format between the ends: E4M3 has 8 in an octave, E8M0 one. */
static int64_t candidates(const struct qp_scale_search *s)
{
    enum qp_dtype dtype = s->format->scale_dtype;
    double octaves = s->last > 0 && s->first > s->last ? log2((double)s->first / (double)s->last) : 0;
    if (!s->sweep || (dtype != QP_F8_E4M3 && dtype != QP_F8_E8M0))
        return s->steps;
    return 1 + (int64_t)((dtype == QP_F8_E4M3 ? 8 : 1) * octaves);
}

static void scale_search(const struct qp_scale_search *s)
{
    int64_t group = s->hessian == NULL ? 0 : s->group;
    count(QP_WORK_SEARCH, qp_search_operations(s->rows * s->cols, candidates(s), group));
    inner.scale_search(s);
}

static void rtn(const struct qp_rtn *job)
{
    if (qp_failure_is_set())
        return;
    qp_kernels_take_threads();
    qp_work_add_read((double)job->rows * (double)job->cols * qp_dtype_bits(job->dtype) / 8);
    inner.rtn(job);
}

void qp_kernels_count(struct qp_kernels *table)
{
    inner = *table;
    table->gemm = gemm;
    table->linear_bf16 = linear_bf16;
    table->linear_int8 = linear_int8;
    table->linear_split = linear_split;
    table->attention = attention;
    table->attention_bf16 = attention_bf16;
    table->hessian = hessian;
    table->hessian_bf16 = hessian_bf16;
    table->factor = factor;
    table->gptq_block = gptq_block;
    table->descent = descent;
    table->scale_search = scale_search;
    table->rtn = rtn;
}
