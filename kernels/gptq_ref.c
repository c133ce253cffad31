#include "kernels/gptq.h"

#include <stddef.h>

#include "kernels/rounding.h"

static void quantize_row(const struct qp_gptq_block *b, int64_t row)
{
    const float *w = b->w + row * b->w_stride;
    float *s = b->s + row * b->s_stride;

    for (int64_t i = 0; i < b->count; i++) {
        const float *r = b->r + i * b->r_stride;
        int64_t at = row * b->groups + b->group_of[i];
        int8_t zero = b->zero == NULL ? 0 : b->zero[at];
        float v = qp_positive_nan(w[i] + s[i] / r[i]);
        uint8_t code = qp_code(b->format, v, b->scale[at], zero);
        float q = qp_value(b->format, code, b->scale[at], zero);

        b->codes[row * b->codes_stride + i] = code;
        if (b->error != NULL)
            b->error[row * b->error_stride + i] = (v - q) * r[i];
        s[i] = w[i] - q;
        for (int64_t j = i + 1; j < b->count; j++)
            s[j] += s[i] * r[j];
    }
}

void qp_gptq_block_ref(const struct qp_gptq_block *b)
{
    for (int64_t r = 0; r < b->rows; r++)
        quantize_row(b, r);
}
