#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector/vector.h"
#include "kernels/failure.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

/* LANES rows are worked on at a time, as a tile that holds them transposed, so that a column is one vector. A sweep
 * goes over blocks of columns, and in a block over the tiles: inside it a change reaches the columns after it at once;
 * then all columns are paid what the block's changes owe them, by the rows of H of those columns that changed at all,
 * which stay in the cache from tile to tile. CHUNK rows at a time go through all sweeps. */
enum { BLOCK = 64, CHUNK = 512, PANEL = 8 };

/* The rows that are worked on, as tiles of [cols, LANES]. */
struct chunk {
    const struct qp_descent *p;
    int64_t first, rows;
    float *q, *g;
    uint8_t *codes;
    double *gain; /* [CHUNK] */
};

/* A tile's part of a block: a column is LANES numbers. */
struct part {
    float *q;
    uint8_t *codes;
    float g[BLOCK * LANES], delta[BLOCK * LANES], scale[LANES], zero[LANES];
    int changed[BLOCK], changes; /* the columns that changed in some lane */
    double *gain;
    int64_t steps;
};

static void load_scales(const struct qp_descent *p, int64_t row, int64_t rows, int64_t group, struct part *t)
{
    for (int64_t l = 0; l < LANES; l++) {
        int64_t at = p->group == 0 ? 0 : (row + (l < rows ? l : 0)) * qp_groups(p->cols, p->group) + group;
        t->scale[l] = p->scale[at];
        t->zero[l] = p->zero == NULL ? 0 : p->zero[at];
    }
}

/* Codes of the targets and their values. */
static void quantize_lanes(const struct qp_number_format *format, const struct part *t, const float *target,
                           uint8_t *codes, float *value)
{
    if (format->codes == QP_I8) {
        float qmin = qp_format_min(format), qmax = qp_format_max(format);
        for (int l = 0; l < LANES; l++) {
            int8_t code = qp_integer_code(target[l], t->scale[l], t->zero[l], qmin, qmax);
            codes[l] = (uint8_t)code;
            value[l] = ((float)code - t->zero[l]) * t->scale[l];
        }
    } else
        for (int l = 0; l < LANES; l++) {
            codes[l] = qp_code(format, target[l], t->scale[l], 0);
            value[l] = qp_value(format, codes[l], t->scale[l], 0);
        }
}

/* Takes the best codes of column k of the block where they lower the loss; false when they do nowhere. */
static bool step(const struct qp_number_format *format, float h, int64_t k, struct part *t)
{
    float *q = t->q + k * LANES, *g = t->g + k * LANES, *delta = t->delta + k * LANES;
    float target[LANES], value[LANES], gain[LANES];
    uint8_t codes[LANES];
    int64_t steps = 0;

    for (int l = 0; l < LANES; l++)
        target[l] = q[l] + g[l] / h;
    quantize_lanes(format, t, target, codes, value);
    for (int l = 0; l < LANES; l++) {
        float d = value[l] - q[l], gained = d * (2 * g[l] - d * h);
        bool better = gained > 0;
        gain[l] = better ? gained : 0;
        delta[l] = better ? d : 0;
        steps += better;
    }
    if (steps == 0)
        return false;
    for (int l = 0; l < LANES; l++) {
        q[l] = delta[l] != 0 ? value[l] : q[l];
        t->codes[k * LANES + l] = delta[l] != 0 ? codes[l] : t->codes[k * LANES + l];
        t->gain[l] += gain[l];
    }
    t->steps += steps;
    return true;
}

static void sweep_part(const struct chunk *c, int64_t row, int64_t at, int64_t count, struct part *t)
{
    const struct qp_descent *p = c->p;
    int64_t group = -1, rows = c->rows - row;

    for (int64_t k = 0; k < count; k++) {
        const float *h = p->h + (at + k) * p->cols + at;
        int64_t mine = p->group == 0 ? 0 : (at + k) / p->group;
        if (mine != group)
            load_scales(p, c->first + row, rows, group = mine, t);
        if (!(h[k] > 0) || !step(p->format, h[k], k, t))
            continue;
        t->changed[t->changes++] = (int)k;
        vf delta = v_load(t->delta + k * LANES);
        for (int64_t j = k + 1; j < count; j++)
            v_store(t->g + j * LANES, v_load(t->g + j * LANES) - delta * v_set(h[j]));
    }
}

/* The g of `width` columns from j on less what the part's changes owe them. */
static inline __attribute__((always_inline)) void pay_panel(const float *h, int64_t cols, const struct part *t,
                                                            float *g, int width)
{
    vf sum[PANEL];
    for (int j = 0; j < width; j++)
        sum[j] = v_load(g + j * LANES);
    for (int i = 0; i < t->changes; i++) {
        vf delta = v_set(0) - v_load(t->delta + t->changed[i] * LANES);
        for (int j = 0; j < width; j++)
            sum[j] = v_fma(delta, v_set(h[t->changed[i] * cols + j]), sum[j]);
    }
    for (int j = 0; j < width; j++)
        v_store(g + j * LANES, sum[j]);
}

static void pay(const struct qp_descent *p, int64_t at, const struct part *t, float *g)
{
    const float *h = p->h + at * p->cols;
    int64_t j = 0;

    for (; j + PANEL <= p->cols; j += PANEL)
        pay_panel(h + j, p->cols, t, g + j * LANES, PANEL);
    for (; j < p->cols; j++)
        pay_panel(h + j, p->cols, t, g + j * LANES, 1);
}

static int64_t sweep_block(const struct chunk *c, int64_t at, int64_t count)
{
    int64_t steps = 0;

#pragma omp parallel for reduction(+ : steps) if (c->rows * count >= QP_PARALLEL_ELEMENTS / 4)
    for (int64_t row = 0; row < c->rows; row += LANES) {
        int64_t tile = row * c->p->cols;
        struct part t;
        t.q = c->q + tile + at * LANES;
        t.codes = c->codes + tile + at * LANES;
        t.gain = c->gain + row;
        t.changes = 0;
        t.steps = 0;
        memcpy(t.g, c->g + tile + at * LANES, (size_t)(count * LANES) * sizeof *t.g);
        sweep_part(c, row, at, count, &t);
        if (t.changes > 0)
            pay(c->p, at, &t, c->g + tile);
        steps += t.steps;
    }
    return steps;
}

static int64_t sweep(const struct chunk *c)
{
    int64_t cols = c->p->cols, steps = 0;

    for (int64_t at = 0; at < cols && !qp_failure_is_set(); at += BLOCK)
        steps += sweep_block(c, at, cols - at < BLOCK ? cols - at : BLOCK);
    return steps;
}

/* Lanes after the last row work on a gradient of 0, which changes nothing. `value` has space for a row. */
static void load_row(const struct chunk *c, int64_t row, int64_t lane, float *value)
{
    const struct qp_descent *p = c->p;
    int64_t cols = p->cols, tile = row * cols + lane, from = c->first + row + (row + lane < c->rows ? lane : 0);
    int64_t scales = p->group == 0 ? 0 : from * qp_groups(cols, p->group);

    QP_NAME(qp_dequantize)
    (p->format, 1, cols, p->group, p->codes + from * cols, p->scale + scales, p->zero == NULL ? NULL : p->zero + scales,
     value);
    for (int64_t k = 0; k < cols; k++) {
        c->q[tile + k * LANES] = value[k];
        c->codes[tile + k * LANES] = p->codes[from * cols + k];
        c->g[tile + k * LANES] = row + lane < c->rows ? p->gradient[from * cols + k] : 0;
    }
}

static void load(const struct chunk *c)
{
#pragma omp parallel if (c->rows * c->p->cols >= QP_PARALLEL_ELEMENTS)
    {
        float *value = qp_scratch((size_t)c->p->cols, sizeof *value);
#pragma omp for
        for (int64_t row = 0; row < c->rows; row += LANES)
            for (int64_t lane = 0; lane < LANES && value != NULL; lane++)
                load_row(c, row, lane, value);
        free(value);
    }
}

static void store(const struct chunk *c)
{
    const struct qp_descent *p = c->p;

#pragma omp parallel for if (c->rows * p->cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t row = 0; row < c->rows; row++) {
        int64_t tile = (row - row % LANES) * p->cols + row % LANES, to = (c->first + row) * p->cols;
        for (int64_t k = 0; k < p->cols; k++) {
            p->codes[to + k] = c->codes[tile + k * LANES];
            p->gradient[to + k] = c->g[tile + k * LANES];
        }
        if (p->gain != NULL)
            p->gain[c->first + row] = c->gain[row];
    }
}

static int64_t descent_chunk(const struct chunk *c)
{
    int64_t steps = 0, changed = 1;

    memset(c->gain, 0, CHUNK * sizeof *c->gain);
    load(c);
    for (int i = 0; i < c->p->sweeps && changed > 0; i++)
        steps += changed = sweep(c);
    store(c);
    return steps;
}

int64_t QP_NAME(qp_descent)(const struct qp_descent *p)
{
    int64_t rows = p->rows < CHUNK ? (p->rows + LANES - 1) / LANES * LANES : CHUNK, size = rows * p->cols, steps = 0;
    struct chunk c = {.p = p,
                      .q = qp_scratch((size_t)(2 * size), sizeof(float)),
                      .codes = qp_scratch((size_t)size, 1),
                      .gain = qp_scratch(CHUNK, sizeof(double))};

    bool good = c.q != NULL && c.codes != NULL && c.gain != NULL;
    c.g = good ? c.q + size : NULL;
    for (; c.first < p->rows && good && !qp_failure_is_set(); c.first += CHUNK) {
        c.rows = p->rows - c.first < CHUNK ? p->rows - c.first : CHUNK;
        steps += descent_chunk(&c);
    }
    free(c.q);
    free(c.codes);
    free(c.gain);
    return steps;
}
