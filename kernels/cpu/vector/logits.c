#include <math.h>

#include "kernels/cpu/vector/vector.h"

static float largest(int64_t n, const float *x)
{
    vf best = v_set(-INFINITY);
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES)
        best = v_max(v_load(x + i), best);
    if (i < n)
        best = v_max(v_load_part(x + i, n - i, -INFINITY), best);
    return v_largest(best);
}

static int32_t first_equal(int64_t n, const float *x, float value)
{
    int64_t i = 0;

    for (; i + LANES <= n; i += LANES) {
        unsigned equal = v_equal_bits(v_load(x + i), v_set(value));
        if (equal != 0)
            return (int32_t)(i + __builtin_ctz(equal));
    }
    for (; i < n; i++)
        if (x[i] == value)
            return (int32_t)i;
    return 0;
}

static double sum_exp(int64_t n, const float *x, float max)
{
    vd low = {0}, high = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        vf e = v_exp((i + LANES <= n ? v_load(x + i) : v_load_part(x + i, n - i, -INFINITY)) - v_set(max));
        low += v_low(e);
        high += v_high(e);
    }
    return v_sum_double(low + high);
}

/* Sum of e^(p - max) (p - q); where the weight is 0 the difference does not count, be it infinite. */
static double weighted_difference(int64_t n, const float *p, const float *q, float max)
{
    vd low = {0}, high = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        vf a = i + LANES <= n ? v_load(p + i) : v_load_part(p + i, n - i, -INFINITY);
        vf b = i + LANES <= n ? v_load(q + i) : v_load_part(q + i, n - i, 0);
        vf e = v_exp(a - v_set(max));
        vm counts = v_less(v_set(0), e);
        a = v_select(counts, a, v_set(0));
        b = v_select(counts, b, v_set(0));
        low += v_low(e) * (v_low(a) - v_low(b));
        high += v_high(e) * (v_high(a) - v_high(b));
    }
    return v_sum_double(low + high);
}

/* logsumexp of a row, with its maximum and the sum of e^(x - maximum). */
struct row {
    float max;
    double sum, log_sum;
};

static struct row score(int64_t n, const float *x, int32_t target, double *nll, int32_t *top)
{
    struct row row = {.max = largest(n, x)};

    row.sum = sum_exp(n, x, row.max);
    row.log_sum = row.max + log(row.sum);
    if (nll != NULL)
        *nll = target < 0 ? 0 : row.log_sum - x[target];
    if (top != NULL)
        *top = first_equal(n, x, row.max);
    return row;
}

static void compare(const struct qp_logits *l, int64_t r)
{
    int32_t target = l->target == NULL ? -1 : l->target[r];
    const float *p = l->p + r * l->vocab, *q = l->q + r * l->vocab;
    struct row a =
        score(l->vocab, p, target, l->nll_p == NULL ? NULL : l->nll_p + r, l->top_p == NULL ? NULL : l->top_p + r);

    if (l->q == NULL)
        return;
    struct row b =
        score(l->vocab, q, target, l->nll_q == NULL ? NULL : l->nll_q + r, l->top_q == NULL ? NULL : l->top_q + r);
    if (l->kl != NULL)
        l->kl[r] = weighted_difference(l->vocab, p, q, a.max) / a.sum - (a.log_sum - b.log_sum);
}

void QP_NAME(qp_logits)(const struct qp_logits *l)
{
#pragma omp parallel for if (l->rows * l->vocab >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < l->rows; r++)
        compare(l, r);
}
