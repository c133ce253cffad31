#include "kernels/logits.h"

#include <math.h>
#include <stddef.h>

static double log_sum_exp(int64_t n, const float *x)
{
    double max = -INFINITY, sum = 0;

    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* NaN is never the largest. */
static int32_t top(int64_t n, const float *x)
{
    int64_t best = -1;
    for (int64_t i = 0; i < n; i++)
        best = (best < 0 && !isnan(x[i])) || (best >= 0 && x[i] > x[best]) ? i : best;
    return best < 0 ? 0 : (int32_t)best;
}

static double divergence(int64_t n, const float *p, double log_p, const float *q, double log_q)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++) {
        double weight = exp(p[i] - log_p);
        if (weight != 0)
            sum += weight * ((p[i] - log_p) - (q[i] - log_q));
    }
    return sum;
}

static double score(int64_t n, const float *x, double log_sum, int32_t target, double *nll, int32_t *best)
{
    if (nll != NULL)
        *nll = target < 0 ? 0 : log_sum - x[target];
    if (best != NULL)
        *best = top(n, x);
    return log_sum;
}

void qp_logits_ref(const struct qp_logits *l)
{
    for (int64_t r = 0; r < l->rows; r++) {
        int32_t target = l->target == NULL ? -1 : l->target[r];
        const float *p = l->p + r * l->vocab;
        double log_p = score(l->vocab, p, log_sum_exp(l->vocab, p), target, l->nll_p == NULL ? NULL : l->nll_p + r,
                             l->top_p == NULL ? NULL : l->top_p + r);
        if (l->q == NULL)
            continue;
        const float *q = l->q + r * l->vocab;
        double log_q = score(l->vocab, q, log_sum_exp(l->vocab, q), target, l->nll_q == NULL ? NULL : l->nll_q + r,
                             l->top_q == NULL ? NULL : l->top_q + r);
        if (l->kl != NULL)
            l->kl[r] = divergence(l->vocab, p, log_p, q, log_q);
    }
}
