#include "kernels/elementwise.h"

#include <math.h>

void qp_multiply_ref(int64_t count, float scale, float *x)
{
    for (int64_t i = 0; i < count; i++)
        x[i] *= scale;
}

void qp_add_scaled_ref(int64_t count, float scale, const float *x, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] += scale * x[i];
}

void qp_soft_cap_ref(int64_t count, float cap, float *x)
{
    for (int64_t i = 0; i < count; i++)
        x[i] = (float)((double)cap * tanh((double)x[i] / (double)cap));
}
