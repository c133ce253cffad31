#include <stdlib.h>

#include "kernels/cpu/vector/vector.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

/* LANES rows at a time, transposed, so that a column is one vector. Columns are quantized in steps of DEPTH; what a
 * step owes to the columns after it is then paid at once, each column loaded and stored once for DEPTH subtractions.
 * Every element still sees the same subtractions in the same order. */
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
            codes[l] = (uint8_t)qp_small_float_encode(f, w[l] / s->scale[l]);
            value[l] = qp_small_float_decode(f, codes[l]) * s->scale[l];
        }
    else
        for (int l = 0; l < LANES; l++) {
            int8_t code = qp_integer_code(w[l], s->scale[l], s->zero[l], qmin, qmax);
            codes[l] = (uint8_t)code;
            value[l] = ((float)code - s->zero[l]) * s->scale[l];
        }
}

/* w[j] -= the errors of columns [first, first + DEPTH) in turn, for every j after them. */
static void pay(const struct qp_gptq_block *b, int64_t first, const float *error, float *w)
{
    vf e[DEPTH];

    for (int k = 0; k < DEPTH; k++)
        e[k] = v_load(error + k * LANES);
    for (int64_t j = first + DEPTH; j < b->count; j++) {
        vf x = v_load(w + j * LANES);
        for (int k = 0; k < DEPTH; k++)
            x = x - e[k] * v_set(b->u[(first + k) * b->u_stride + j]);
        v_store(w + j * LANES, x);
    }
}

/* Scratch of one tile: [count][LANES] each. */
struct tile {
    float *w, *error;
    uint8_t *codes;
};

static void quantize_tile(const struct qp_gptq_block *b, int64_t row, int64_t rows, const struct tile *t)
{
    struct lanes scales = {0};
    float value[LANES];
    int64_t group = -1;

    for (int64_t i = 0; i < b->count; i++) {
        const float *u = b->u + i * b->u_stride;
        int64_t end = i / DEPTH * DEPTH + DEPTH < b->count ? i / DEPTH * DEPTH + DEPTH : b->count;

        if (b->group_of[i] != group)
            load_scales(b, row, rows, group = b->group_of[i], &scales);
        quantize_column(b->format, t->w + i * LANES, &scales, t->codes + i * LANES, value);
        vf e = (v_load(t->w + i * LANES) - v_load(value)) / v_set(u[i]);
        v_store(t->error + i * LANES, e);
        for (int64_t j = i + 1; j < end; j++)
            v_store(t->w + j * LANES, v_load(t->w + j * LANES) - e * v_set(u[j]));
        if (i + 1 == end && end < b->count)
            pay(b, end - DEPTH, t->error + (end - DEPTH) * LANES, t->w);
    }
}

static void load_tile(const struct qp_gptq_block *b, int64_t row, int64_t rows, float *w)
{
    for (int64_t l = 0; l < LANES; l++)
        for (int64_t i = 0; i < b->count; i++)
            w[i * LANES + l] = b->w[(row + (l < rows ? l : 0)) * b->w_stride + i];
}

static void store_tile(const struct qp_gptq_block *b, int64_t row, int64_t rows, const struct tile *t)
{
    for (int64_t l = 0; l < rows; l++)
        for (int64_t i = 0; i < b->count; i++) {
            b->w[(row + l) * b->w_stride + i] = t->w[i * LANES + l];
            b->error[(row + l) * b->count + i] = t->error[i * LANES + l];
            b->codes[(row + l) * b->codes_stride + i] = t->codes[i * LANES + l];
        }
}

void QP_NAME(qp_gptq_block)(const struct qp_gptq_block *b)
{
#pragma omp parallel if (b->rows * b->count >= QP_PARALLEL_ELEMENTS / 4)
    {
        float *w = qp_scratch((size_t)(b->count * LANES), 2 * sizeof(float) + 1);
        struct tile t = {0};

        if (w != NULL)
            t = (struct tile){w, w + b->count * LANES, (uint8_t *)(w + 2 * b->count * LANES)};

#pragma omp for
        for (int64_t row = 0; row < b->rows; row += LANES) {
            int64_t rows = b->rows - row < LANES ? b->rows - row : LANES;
            if (w == NULL)
                continue;
            load_tile(b, row, rows, t.w);
            quantize_tile(b, row, rows, &t);
            store_tile(b, row, rows, &t);
        }
        free(w);
    }
}
