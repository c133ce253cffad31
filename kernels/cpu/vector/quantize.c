#include "kernels/cpu/vector/vector.h"
#include "kernels/rounding.h"

/* The compiler vectorises these loops, and for a count that it knows without a scalar remainder. */
#define SOME static inline __attribute__((always_inline)) void
enum { SHORT = 16 };

SOME quantize_some(const struct qp_number_format *format, int64_t count, const float *restrict w, float scale,
                   int8_t zero, uint8_t *restrict codes)
{
    const struct qp_small_float f = *qp_code_format(format->codes);
    float qmin = qp_format_min(format), qmax = qp_format_max(format), z = zero;

    if (format->codes != QP_I8)
        for (int64_t i = 0; i < count; i++)
            codes[i] = (uint8_t)qp_small_float_encode(f, w[i] / scale);
    else
        for (int64_t i = 0; i < count; i++)
            codes[i] = (uint8_t)qp_integer_code(w[i], scale, z, qmin, qmax);
}

SOME dequantize_some(const struct qp_number_format *format, int64_t count, const uint8_t *restrict codes, float scale,
                     int8_t zero, float *restrict w)
{
    const struct qp_small_float f = *qp_code_format(format->codes);

    if (format->codes != QP_I8)
        for (int64_t i = 0; i < count; i++)
            w[i] = qp_small_float_decode(f, codes[i]) * scale;
    else
        for (int64_t i = 0; i < count; i++)
            w[i] = (float)((int8_t)codes[i] - zero) * scale;
}

SOME fake_some(const struct qp_number_format *format, int64_t count, float *x, float scale, int8_t zero)
{
    const struct qp_small_float f = *qp_code_format(format->codes);
    float qmin = qp_format_min(format), qmax = qp_format_max(format), z = zero;

    if (format->codes != QP_I8)
        for (int64_t i = 0; i < count; i++)
            x[i] = qp_small_float_decode(f, qp_small_float_encode(f, x[i] / scale)) * scale;
    else
        for (int64_t i = 0; i < count; i++)
            x[i] = (float)(qp_integer_code(x[i], scale, z, qmin, qmax) - zero) * scale;
}

/* Runs of elements that share a scale; those of a group of 16 or 32 are as fast as long ones. */
static void quantize_run(const struct qp_number_format *format, int64_t count, const float *w, float scale, int8_t zero,
                         uint8_t *codes)
{
    for (; count % (4 * SHORT) >= SHORT; count -= SHORT, w += SHORT, codes += SHORT)
        quantize_some(format, SHORT, w, scale, zero, codes);
    quantize_some(format, count, w, scale, zero, codes);
}

static void dequantize_run(const struct qp_number_format *format, int64_t count, const uint8_t *codes, float scale,
                           int8_t zero, float *w)
{
    for (; count % (4 * SHORT) >= SHORT; count -= SHORT, w += SHORT, codes += SHORT)
        dequantize_some(format, SHORT, codes, scale, zero, w);
    dequantize_some(format, count, codes, scale, zero, w);
}

static void fake_run(const struct qp_number_format *format, int64_t count, float *x, float scale, int8_t zero)
{
    for (; count % (4 * SHORT) >= SHORT; count -= SHORT, x += SHORT)
        fake_some(format, SHORT, x, scale, zero);
    fake_some(format, count, x, scale, zero);
}

/* Widens [*min, *max] by count elements; NaN is passed over. */
static void widen(int64_t count, const float *w, float *min, float *max)
{
    vf low[2] = {v_set(*min), v_set(*min)}, high[2] = {v_set(*max), v_set(*max)};
    int64_t i = 0;

    for (; i + 2 * LANES <= count; i += 2 * LANES)
        for (int k = 0; k < 2; k++) {
            vf x = v_load(w + i + k * LANES);
            low[k] = v_min(x, low[k]);
            high[k] = v_max(x, high[k]);
        }
    for (; i + LANES <= count; i += LANES) {
        low[0] = v_min(v_load(w + i), low[0]);
        high[0] = v_max(v_load(w + i), high[0]);
    }
    *min = v_smallest(v_min(low[0], low[1]));
    *max = v_largest(v_max(high[0], high[1]));
    for (; i < count; i++) {
        *min = w[i] < *min ? w[i] : *min;
        *max = w[i] > *max ? w[i] : *max;
    }
}

/* What a row's worth of work is: with one scale for all, pieces of any length will do. */
struct shape {
    int64_t rows, cols, group, groups;
};

static struct shape shape_of(int64_t rows, int64_t cols, int64_t group)
{
    if (group == 0)
        return (struct shape){rows, cols, cols, 0};
    return (struct shape){rows, cols, group, qp_groups(cols, group)};
}

static int64_t run_length(const struct shape *s, int64_t first)
{
    return s->cols - first < s->group ? s->cols - first : s->group;
}

static void range_of_all(int64_t rows, int64_t cols, const float *w, float *min, float *max)
{
    float least = 0, most = 0;

#pragma omp parallel for reduction(min : least) reduction(max : most) if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        widen(cols, w + r * cols, &least, &most);
    *min = least;
    *max = most;
}

void QP_NAME(qp_qparams)(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group,
                         const float *w, float *scale, int8_t *zero)
{
    struct shape s = shape_of(rows, cols, group);
    float min, max;

    if (group == 0) {
        range_of_all(rows, cols, w, &min, &max);
        qp_range_params(format, min, max, scale, zero);
        return;
    }
#pragma omp parallel for private(min, max) if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < s.groups; g++) {
            int64_t at = r * s.groups + g;
            min = max = 0;
            widen(run_length(&s, g * group), w + r * cols + g * group, &min, &max);
            qp_range_params(format, min, max, scale + at, zero == NULL ? NULL : zero + at);
        }
}

void QP_NAME(qp_quantize)(const struct qp_grouped *m, const float *w, uint8_t *codes)
{
    const struct qp_number_format *format = m->format;
    const float *scale = m->scale;
    const int8_t *zero = m->zero;
    int64_t rows = m->rows, cols = m->cols;
    struct shape s = shape_of(rows, cols, m->group);

#pragma omp parallel for if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0, at = r * s.groups; i < cols; i += s.group, at++)
            quantize_run(format, run_length(&s, i), w + r * cols + i, scale[at], zero == NULL ? 0 : zero[at],
                         codes + r * cols + i);
}

void QP_NAME(qp_dequantize)(const struct qp_grouped *m, const uint8_t *codes, float *w)
{
    const struct qp_number_format *format = m->format;
    const float *scale = m->scale;
    const int8_t *zero = m->zero;
    int64_t rows = m->rows, cols = m->cols;
    struct shape s = shape_of(rows, cols, m->group);

#pragma omp parallel for if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0, at = r * s.groups; i < cols; i += s.group, at++)
            dequantize_run(format, run_length(&s, i), codes + r * cols + i, scale[at], zero == NULL ? 0 : zero[at],
                           w + r * cols + i);
}

void QP_NAME(qp_fake_quantize)(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group,
                               float *x)
{
    struct shape s = shape_of(rows, cols, group);
    float min = 0, max = 0, scale;
    int8_t zero;

    if (group == 0)
        range_of_all(rows, cols, x, &min, &max);
#pragma omp parallel for firstprivate(min, max) private(scale, zero) if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < cols; i += s.group) {
            float *run = x + r * cols + i;
            if (group != 0) {
                min = max = 0;
                widen(run_length(&s, i), run, &min, &max);
            }
            qp_range_params(format, min, max, &scale, &zero);
            fake_run(format, run_length(&s, i), run, scale, zero);
        }
}
