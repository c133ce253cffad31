#include "kernels/swiglu.h"

#include <math.h>

void qp_swiglu_ref(int64_t count, const float *gate, const float *up, float *y)
{
    for (int64_t i = 0; i < count; i++)
        y[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}
