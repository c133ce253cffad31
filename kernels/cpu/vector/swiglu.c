#include "kernels/cpu/vector/vector.h"

/* By e^-|g|, which cannot overflow: 1 / (1 + e^-g) is 1 / (1 + e^-|g|) for g >= 0, e^-|g| / (1 + e^-|g|) below. */
static vf gated(vf g, vf up)
{
    vf e = v_exp(-v_abs(g));
    return g * v_select(v_less(g, v_set(0)), e, v_set(1)) / (e + v_set(1)) * up;
}

void QP_NAME(qp_swiglu)(int64_t count, const float *gate, const float *up, float *y)
{
    int64_t whole = count / LANES * LANES, rest = count - whole;

#pragma omp parallel for if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < whole; i += LANES)
        v_store(y + i, gated(v_load(gate + i), v_load(up + i)));
    if (rest > 0)
        v_store_part(y + whole, rest, gated(v_load_part(gate + whole, rest, 0), v_load_part(up + whole, rest, 0)));
}

void QP_NAME(qp_swiglu_bf16)(int64_t count, const float *gate, const float *up, uint16_t *y)
{
    int64_t whole = count / LANES * LANES, rest = count - whole;

#pragma omp parallel for if (count >= QP_PARALLEL_ELEMENTS)
    for (int64_t i = 0; i < whole; i += LANES)
        v_store_bf16(y + i, LANES, gated(v_load(gate + i), v_load(up + i)));
    if (rest > 0)
        v_store_bf16(y + whole, rest, gated(v_load_part(gate + whole, rest, 0), v_load_part(up + whole, rest, 0)));
}
