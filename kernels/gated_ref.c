#include "kernels/gated.h"

#include <math.h>

#include "kernels/codec.h"

/* sqrt(1 / 2) and 2 sqrt(2 / pi). */
#define ROOT_HALF 0.70710678118654752440
#define TWICE_ROOT 1.59576912160573071176

/* (1 + tanh(u)) / 2 is 1 / (1 + exp(-2 u)). */
static double smooth_act(enum qp_act act, double x)
{
    if (act == QP_ACT_GELU)
        return x * erfc(-x * ROOT_HALF) / 2;
    return x / (1 + exp(act == QP_ACT_SILU ? -x : -TWICE_ROOT * (x + 0.044715 * x * x * x)));
}

static double xielu(const struct qp_xielu *c, double x)
{
    double eps = (double)c->eps, linear = (double)c->linear * x;
    return x > 0 ? (double)c->positive * x * x + linear : (double)c->negative * (expm1(x < eps ? x : eps) - x) + linear;
}

static float gated_number(const struct qp_gated *g, float gate, float up)
{
    enum qp_act act = g->act;
    float positive = gate < 0 ? 0 : gate;

    if (act == QP_ACT_RELU)
        return positive * up;
    if (act == QP_ACT_RELU2)
        return positive * positive * up;
    return (float)((act == QP_ACT_XIELU ? xielu(&g->xielu, (double)gate) : smooth_act(act, gate)) * up);
}

static float gated_at(const struct qp_gated *g, int64_t row, int64_t column)
{
    int64_t at = row * g->stride + column;
    return gated_number(g, g->gate[at], g->up == NULL ? 1 : g->up[at]);
}

void qp_gated_ref(const struct qp_gated *g, float *y)
{
    for (int64_t r = 0; r < g->rows; r++)
        for (int64_t i = 0; i < g->n; i++)
            y[r * g->n + i] = gated_at(g, r, i);
}

void qp_gated_bf16_ref(const struct qp_gated *g, uint16_t *y)
{
    for (int64_t r = 0; r < g->rows; r++)
        for (int64_t i = 0; i < g->n; i++)
            y[r * g->n + i] = qp_f32_to_bf16(gated_at(g, r, i));
}
