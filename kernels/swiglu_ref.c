#include "kernels/swiglu.h"

#include <math.h>

#include "kernels/codec.h"

static float gated(float gate, float up)
{
    return (float)(gate / (1 + exp(-(double)gate)) * up);
}

void qp_swiglu_ref(int64_t count, const float *gate, const float *up, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = gated(gate[i], up[i]);
}

void qp_swiglu_bf16_ref(int64_t count, const float *gate, const float *up, uint16_t *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = qp_f32_to_bf16(gated(gate[i], up[i]));
}
