#include "kernels/descent.h"

#include <stdlib.h>

#include "kernels/failure.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

/* Which scale the element [r, i] has. */
static int64_t scale_of(const struct qp_descent *p, int64_t r, int64_t i)
{
    return p->group == 0 ? 0 : r * qp_groups(p->cols, p->group) + i / p->group;
}

static float value_of(const struct qp_descent *p, int64_t r, int64_t i, uint8_t code)
{
    int64_t at = scale_of(p, r, i);
    return qp_value(p->format, code, p->scale[at], p->zero == NULL ? 0 : p->zero[at]);
}

/* Takes the best code of column k if it lowers the loss; returns by how much, or 0. */
static double step(const struct qp_descent *p, int64_t r, int64_t k, float *q, float *g)
{
    float h = p->h[k * p->cols + k];
    if (!(h > 0))
        return 0;
    int64_t at = scale_of(p, r, k);
    uint8_t code = qp_code(p->format, q[k] + g[k] / h, p->scale[at], p->zero == NULL ? 0 : p->zero[at]);
    float value = value_of(p, r, k, code), delta = value - q[k];
    float gain = delta * (2 * g[k] - delta * h);

    if (!(gain > 0))
        return 0;
    q[k] = value;
    p->codes[r * p->cols + k] = code;
    for (int64_t j = 0; j < p->cols; j++)
        g[j] -= delta * p->h[k * p->cols + j];
    return gain;
}

int64_t qp_descent_ref(const struct qp_descent *p)
{
    float *q = qp_scratch((size_t)p->cols, sizeof *q);
    int64_t steps = 0;

    for (int64_t r = 0; r < p->rows && q != NULL; r++) {
        double gain = 0;
        int64_t before = -1;
        for (int64_t k = 0; k < p->cols; k++)
            q[k] = value_of(p, r, k, p->codes[r * p->cols + k]);
        for (int sweep = 0; sweep < p->sweeps && before != steps && !qp_failure_is_set(); sweep++) {
            before = steps;
            for (int64_t k = 0; k < p->cols; k++) {
                double gained = step(p, r, k, q, p->gradient + r * p->cols);
                gain += gained;
                steps += gained > 0;
            }
        }
        if (p->gain != NULL)
            p->gain[r] = gain;
    }
    free(q);
    return steps;
}
