#include "kernels/quantize.h"

#include <stddef.h>

#include "kernels/rounding.h"

/* Which scale the element [r, i] has. */
static int64_t scale_of(int64_t cols, int64_t group, int64_t r, int64_t i)
{
    return group == 0 ? 0 : r * qp_groups(cols, group) + i / group;
}

/* Range of `rows` pieces of `count` columns, `stride` apart, widened to hold 0. */
static void range(int64_t rows, int64_t count, int64_t stride, const float *w, float *min, float *max)
{
    *min = *max = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < count; i++) {
            float x = w[r * stride + i];
            *min = x < *min ? x : *min;
            *max = x > *max ? x : *max;
        }
}

void qp_qparams_ref(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group, const float *w,
                    float *scale, int8_t *zero)
{
    int64_t pieces = group == 0 ? 1 : rows, height = group == 0 ? rows : 1, width = group == 0 ? cols : group;

    for (int64_t r = 0; r < pieces; r++)
        for (int64_t g = 0; g < qp_groups(cols, group); g++) {
            int64_t first = g * width, count = first + width > cols ? cols - first : width;
            int64_t at = r * qp_groups(cols, group) + g;
            float min, max;
            range(height, count, cols, w + r * cols + first, &min, &max);
            qp_range_params(format, min, max, scale + at, zero == NULL ? NULL : zero + at);
        }
}

void qp_quantize_ref(const struct qp_grouped *m, const float *w, uint8_t *codes)
{
    const struct qp_number_format *format = m->format;
    const float *scale = m->scale;
    const int8_t *zero = m->zero;
    int64_t rows = m->rows, cols = m->cols, group = m->group;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++) {
            int64_t at = scale_of(cols, group, r, i);
            codes[r * cols + i] = qp_code(format, w[r * cols + i], scale[at], zero == NULL ? 0 : zero[at]);
        }
}

void qp_dequantize_ref(const struct qp_grouped *m, const uint8_t *codes, float *w)
{
    const struct qp_number_format *format = m->format;
    const float *scale = m->scale;
    const int8_t *zero = m->zero;
    int64_t rows = m->rows, cols = m->cols, group = m->group;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i++) {
            int64_t at = scale_of(cols, group, r, i);
            w[r * cols + i] = qp_value(format, codes[r * cols + i], scale[at], zero == NULL ? 0 : zero[at]);
        }
}

/* One group at a time, so that nothing has to be remembered. */
static void fake(const struct qp_number_format *format, int64_t rows, int64_t count, int64_t stride, float *x)
{
    float min, max, scale;
    int8_t zero;

    range(rows, count, stride, x, &min, &max);
    qp_range_params(format, min, max, &scale, &zero);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < count; i++) {
            float *v = x + r * stride + i;
            *v = qp_value(format, qp_code(format, *v, scale, zero), scale, zero);
        }
}

void qp_fake_quantize_ref(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group, float *x)
{
    if (group == 0) {
        fake(format, rows, cols, cols, x);
        return;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i += group)
            fake(format, 1, i + group > cols ? cols - i : group, cols, x + r * cols + i);
}
