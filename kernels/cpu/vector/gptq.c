#include <stdlib.h>

#include "kernels/cpu/vector/vector.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

/* LANES rows at a time, transposed, so that a column is one vector. Columns are quantized in steps of DEPTH; what a
 * step adds to the columns after it is then added at once, each column loaded and stored once for DEPTH sums. Every
 * element still sees the same sums in the same order. */
enum { DEPTH = 8 };

/* Scales and zero points of one column, a row in each lane. */
struct lanes {
    float scale[LANES], zero[LANES];
};

static void load_scales(const struct qp_gptq_block *b, int64_t row, int64_t rows, int64_t group, struct lanes *s)
{
    for (int64_t l = 0; l < LANES; l++) {
        int64_t at = (row + (l < rows ? l : 0)) * b->groups + group;
        s->scale[l] = b->scale[at];
        s->zero[l] = b->zero == NULL ? 0 : b->zero[at];
    }
}

static void quantize_column(const struct qp_number_format *format, const float *w, const struct lanes *s,
                            uint8_t *codes, float *value)
{
    const struct qp_small_float f = *qp_code_format(format->codes);
    float qmin = qp_format_min(format), qmax = qp_format_max(format);

    if (format->codes != QP_I8)
        for (int l = 0; l < LANES; l++) {
            codes[l] = (uint8_t)qp_small_float_encode(f, qp_positive_nan(w[l]) / s->scale[l]);
            value[l] = qp_small_float_decode(f, codes[l]) * s->scale[l];
        }
    else
        for (int l = 0; l < LANES; l++) {
            int8_t code = qp_integer_code(w[l], s->scale[l], s->zero[l], qmin, qmax);
            codes[l] = (uint8_t)code;
            value[l] = (0.0f - s->zero[l] + (float)code) * s->scale[l]; /* not -0, whatever rounds to 0 */
        }
}

/* Scratch of one tile: [count][LANES] each. */
struct tile {
    float *w, *s, *error;
    uint8_t *codes;
};

/* s[j] += the deviations of columns [first, first + DEPTH) by R, one after the other, for every j after them. */
static void add_step(const struct qp_gptq_block *b, int64_t first, float *s)
{
    vf d[DEPTH];

    for (int k = 0; k < DEPTH; k++)
        d[k] = v_load(s + (first + k) * LANES);
    for (int64_t j = first + DEPTH; j < b->count; j++) {
        vf x = v_load(s + j * LANES);
        for (int k = 0; k < DEPTH; k++)
            x = x + d[k] * v_set(b->r[(first + k) * b->r_stride + j]);
        v_store(s + j * LANES, x);
    }
}

static void quantize_tile(const struct qp_gptq_block *b, int64_t row, int64_t rows, const struct tile *t)
{
    struct lanes scales = {0};
    float value[LANES], target[LANES];
    int64_t group = -1;

    for (int64_t i = 0; i < b->count; i++) {
        const float *r = b->r + i * b->r_stride;
        int64_t end = i / DEPTH * DEPTH + DEPTH < b->count ? i / DEPTH * DEPTH + DEPTH : b->count;
        vf w = v_load(t->w + i * LANES), v = w + v_load(t->s + i * LANES) / v_set(r[i]);

        if (b->group_of[i] != group)
            load_scales(b, row, rows, group = b->group_of[i], &scales);
        v_store(target, v);
        quantize_column(b->format, target, &scales, t->codes + i * LANES, value);
        vf d = w - v_load(value);
        v_store(t->error + i * LANES, (v - v_load(value)) * v_set(r[i]));
        v_store(t->s + i * LANES, d);
        for (int64_t j = i + 1; j < end; j++)
            v_store(t->s + j * LANES, v_load(t->s + j * LANES) + d * v_set(r[j]));
        if (i + 1 == end && end < b->count)
            add_step(b, end - DEPTH, t->s);
    }
}

/* to[count, LANES] = from[rows, count]ᵀ; lanes after the last row repeat the first. */
static void load_tile(int64_t rows, int64_t count, const float *from, int64_t stride, float *to)
{
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        vf v[LANES];
        for (int l = 0; l < LANES; l++)
            v[l] = v_load(from + (l < rows ? l : 0) * stride + i);
        v_transpose(v);
        for (int j = 0; j < LANES; j++)
            v_store(to + (i + j) * LANES, v[j]);
    }
    for (; i < count; i++)
        for (int64_t l = 0; l < LANES; l++)
            to[i * LANES + l] = from[(l < rows ? l : 0) * stride + i];
}

static void store_tile(int64_t rows, int64_t count, const float *from, float *to, int64_t stride)
{
    int64_t i = 0;

    for (; i + LANES <= count; i += LANES) {
        vf v[LANES];
        for (int j = 0; j < LANES; j++)
            v[j] = v_load(from + (i + j) * LANES);
        v_transpose(v);
        for (int l = 0; l < LANES && l < rows; l++)
            v_store(to + l * stride + i, v[l]);
    }
    for (; i < count; i++)
        for (int64_t l = 0; l < rows; l++)
            to[l * stride + i] = from[i * LANES + l];
}

static void store_codes(int64_t rows, int64_t count, const uint8_t *from, uint8_t *restrict to, int64_t stride)
{
    for (int64_t l = 0; l < rows; l++)
        for (int64_t i = 0; i < count; i++)
            to[l * stride + i] = from[i * LANES + l];
}

static void run_tile(const struct qp_gptq_block *b, int64_t row, const struct tile *t)
{
    int64_t rows = b->rows - row < LANES ? b->rows - row : LANES;

    load_tile(rows, b->count, b->w + row * b->w_stride, b->w_stride, t->w);
    load_tile(rows, b->count, b->s + row * b->s_stride, b->s_stride, t->s);
    quantize_tile(b, row, rows, t);
    store_tile(rows, b->count, t->s, b->s + row * b->s_stride, b->s_stride);
    if (b->error != NULL)
        store_tile(rows, b->count, t->error, b->error + row * b->error_stride, b->error_stride);
    store_codes(rows, b->count, t->codes, b->codes + row * b->codes_stride, b->codes_stride);
}

void QP_NAME(qp_gptq_block)(const struct qp_gptq_block *b)
{
#pragma omp parallel if (b->rows * b->count >= QP_PARALLEL_ELEMENTS / 4)
    {
        int64_t size = b->count * LANES;
        float *w = qp_scratch((size_t)size, 3 * sizeof(float) + 1);
        struct tile t = {w, w + size, w + 2 * size, (uint8_t *)(w + 3 * size)};

#pragma omp for
        for (int64_t row = 0; row < b->rows; row += LANES)
            if (w != NULL)
                run_tile(b, row, &t);
        free(w);
    }
}
