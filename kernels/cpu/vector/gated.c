#include "kernels/cpu/vector/vector.h"

/* g / (1 + e^-u) by e = e^-|u|, which cannot overflow: it is g / (1 + e) for u >= 0 and g e / (1 + e) below; u has the
 * sign of g. */
static inline vf logistic(vf g, vf e)
{
    return g * v_select(v_less(g, v_set(0)), e, v_set(1)) / (e + v_set(1));
}

/* 2 sqrt(2 / pi) (g + 0.044715 g^3). */
static inline vf tanh_argument(vf g)
{
    return g * v_fma(g * g, v_set(0.0713548162726f), v_set(1.59576912160573f));
}

/* g times the normal distribution function: erfc by Abramowitz and Stegun 7.1.26, error at most 1.5e-7. */
static inline vf gelu(vf g)
{
    vf z = v_abs(g) * v_set(0.707106781186548f);
    vf t = v_set(1) / v_fma(z, v_set(0.3275911f), v_set(1));
    vf p = v_set(1.061405429f);
    p = v_fma(p, t, v_set(-1.453152027f));
    p = v_fma(p, t, v_set(1.421413741f));
    p = v_fma(p, t, v_set(-0.284496736f));
    p = v_fma(p, t, v_set(0.254829592f));
    vf tail = v_set(0.5f) * p * t * v_exp(-(z * z));
    return g * v_select(v_less(g, v_set(0)), tail, v_set(1) - tail);
}

/* m + m^2 / 2 + ... + m^7 / 7! in place of exp(m) - 1 near 0, where that would cancel. */
static inline vf xielu(const struct qp_xielu *c, vf x)
{
    vf m = v_min(x, v_set(c->eps)), p = v_set(1.0f / 5040);
    p = v_fma(p, m, v_set(1.0f / 720));
    p = v_fma(p, m, v_set(1.0f / 120));
    p = v_fma(p, m, v_set(1.0f / 24));
    p = v_fma(p, m, v_set(1.0f / 6));
    p = v_fma(p, m, v_set(0.5f));
    vf near = v_fma(p * m, m, m - x), far = v_exp(m) - v_set(1) - x;
    vf below = v_select(v_less(v_set(-0.5f), m), near, far) * v_set(c->negative) + x * v_set(c->linear);
    vf above = x * v_fma(x, v_set(c->positive), v_set(c->linear));
    return v_select(v_less(v_set(0), x), above, below);
}

static inline vf activate(const struct qp_gated *args, vf g)
{
    vf positive = v_select(v_less(g, v_set(0)), v_set(0), g);

    switch (args->act) {
    case QP_ACT_SILU:
        return logistic(g, v_exp(-v_abs(g)));
    case QP_ACT_GELU:
        return gelu(g);
    case QP_ACT_GELU_TANH:
        return logistic(g, v_exp(-v_abs(tanh_argument(g))));
    case QP_ACT_RELU:
        return positive;
    case QP_ACT_RELU2:
        return positive * positive;
    case QP_ACT_XIELU:
        return xielu(&args->xielu, g);
    }
    return g;
}

/* A whole vector, and the first n numbers of one. */
static inline vf gated_whole(const struct qp_gated *g, int64_t at)
{
    return activate(g, v_load(g->gate + at)) * (g->up == NULL ? v_set(1) : v_load(g->up + at));
}

static inline vf gated_part(const struct qp_gated *g, int64_t at, int64_t n)
{
    return activate(g, v_load_part(g->gate + at, n, 0)) * (g->up == NULL ? v_set(1) : v_load_part(g->up + at, n, 0));
}

/* Numbers that a thread takes at a time; a multiple of LANES. */
enum { PIECE = 4096 };

/* Rows without gaps are one row. */
static struct qp_gated joined(const struct qp_gated *g)
{
    struct qp_gated one = *g;
    if (g->stride == g->n) {
        one.n = one.stride = g->rows * g->n;
        one.rows = 1;
    }
    return one;
}

static int64_t end_of(const struct qp_gated *g, int64_t first)
{
    return first + PIECE < g->n ? first + PIECE : g->n;
}

void QP_NAME(qp_gated)(const struct qp_gated *args, float *y)
{
    struct qp_gated g = joined(args);

#pragma omp parallel for collapse(2) if (g.rows * g.n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < g.rows; r++)
        for (int64_t first = 0; first < g.n; first += PIECE) {
            int64_t i = first, end = end_of(&g, first), in = r * g.stride, out = r * g.n;
            for (; i + LANES <= end; i += LANES)
                v_store(y + out + i, gated_whole(&g, in + i));
            if (i < end)
                v_store_part(y + out + i, end - i, gated_part(&g, in + i, end - i));
        }
}

void QP_NAME(qp_gated_bf16)(const struct qp_gated *args, uint16_t *y)
{
    struct qp_gated g = joined(args);

#pragma omp parallel for collapse(2) if (g.rows * g.n >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < g.rows; r++)
        for (int64_t first = 0; first < g.n; first += PIECE) {
            int64_t i = first, end = end_of(&g, first), in = r * g.stride, out = r * g.n;
            for (; i + LANES <= end; i += LANES)
                v_store_bf16(y + out + i, LANES, gated_whole(&g, in + i));
            if (i < end)
                v_store_bf16(y + out + i, end - i, gated_part(&g, in + i, end - i));
        }
}
