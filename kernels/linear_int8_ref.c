#include "kernels/linear_int8.h"

#include <stddef.h>

static int zero_of(const int8_t *zero, int64_t i)
{
    return zero == NULL ? 0 : zero[i];
}

void qp_linear_int8_ref(const struct qp_linear_int8 *l)
{
    for (int64_t i = 0; i < l->m; i++)
        for (int64_t j = 0; j < l->n; j++) {
            int64_t sum = 0;
            for (int64_t c = 0; c < l->k; c++)
                sum += (l->x[i * l->k + c] - zero_of(l->x_zero, i)) * (l->w[j * l->k + c] - zero_of(l->w_zero, j));
            float y = (float)sum * l->x_scale[i] * l->w_scale[j];
            l->y[i * l->n + j] = l->add ? l->y[i * l->n + j] + y : y;
        }
}
