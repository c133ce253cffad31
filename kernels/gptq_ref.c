#include "kernels/gptq.h"

#include <stddef.h>

#include "kernels/rounding.h"

static void quantize_row(const struct qp_gptq_block *b, int64_t r)
{
    float *w = b->w + r * b->w_stride;

    for (int64_t i = 0; i < b->count; i++) {
        const float *u = b->u + i * b->u_stride;
        int64_t at = r * b->groups + b->group_of[i];
        int8_t zero = b->zero == NULL ? 0 : b->zero[at];
        uint8_t code = qp_code(b->format, w[i], b->scale[at], zero);
        float e = (w[i] - qp_value(b->format, code, b->scale[at], zero)) / u[i];

        b->codes[r * b->codes_stride + i] = code;
        b->error[r * b->count + i] = e;
        for (int64_t j = i + 1; j < b->count; j++)
            w[j] -= e * u[j];
    }
}

void qp_gptq_block_ref(const struct qp_gptq_block *b)
{
    for (int64_t r = 0; r < b->rows; r++)
        quantize_row(b, r);
}
