#include "kernels/cpu/vector/vector.h"

void QP_NAME(qp_multiply)(int64_t count, float scale, float *x)
{
#pragma omp parallel for if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++)
        x[i] *= scale;
}

void QP_NAME(qp_add_scaled)(int64_t count, float scale, const float *x, float *y)
{
#pragma omp parallel for if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < count; i++)
        y[i] += scale * x[i];
}

static inline vf capped(vf cap, vf x)
{
    return cap * v_tanh(x / cap);
}

void QP_NAME(qp_soft_cap)(int64_t count, float cap, float *x)
{
    int64_t whole = count / LANES * LANES, rest = count - whole;

#pragma omp parallel for if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < whole; i += LANES)
        v_store(x + i, capped(v_set(cap), v_load(x + i)));
    if (rest > 0)
        v_store_part(x + whole, rest, capped(v_set(cap), v_load_part(x + whole, rest, 0)));
}
