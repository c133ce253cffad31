#include <stdlib.h>

#include "kernels/cpu/vector/vector.h"
#include "kernels/quantum.h"
#include "kernels/scratch.h"

/* A sweep goes over blocks of columns. Inside a block LANES rows are worked on at a time, transposed, so that a column
 * is one vector; what the changes of a block owe to the columns behind it is then paid by one product. CHUNK rows at a
 * time go through all sweeps: their gradients are all the memory that is needed. */
enum { BLOCK = 64, CHUNK = 512 };

/* The rows that are worked on, [CHUNK, cols] each: q as it stands, w - q (of a block: its changes), the gradient. */
struct chunk {
    const struct qp_polish *p;
    int64_t first, rows;
    float *q, *change, *g;
    double *gain;
};

/* One tile of a block: a column is LANES numbers. */
struct tile {
    float q[BLOCK * LANES], g[BLOCK * LANES], delta[BLOCK * LANES];
    uint8_t codes[BLOCK * LANES];
    float scale[LANES], zero[LANES];
    double gain[LANES];
    int64_t steps;
};

static void load_scales(const struct qp_polish *p, int64_t row, int64_t rows, int64_t group, struct tile *t)
{
    for (int64_t l = 0; l < LANES; l++) {
        int64_t at = p->group == 0 ? 0 : (row + (l < rows ? l : 0)) * qp_groups(p->cols, p->group) + group;
        t->scale[l] = p->scale[at];
        t->zero[l] = p->zero == NULL ? 0 : p->zero[at];
    }
}

/* Codes of the targets and their values. */
static void quantize_lanes(const struct qp_grid *grid, const struct tile *t, const float *target, uint8_t *codes,
                           float *value)
{
    if (grid->codes == QP_I8) {
        float qmin = qp_grid_min(grid), qmax = qp_grid_max(grid);
        for (int l = 0; l < LANES; l++) {
            int8_t code = qp_integer_code(target[l], t->scale[l], t->zero[l], qmin, qmax);
            codes[l] = (uint8_t)code;
            value[l] = ((float)code - t->zero[l]) * t->scale[l];
        }
    } else
        for (int l = 0; l < LANES; l++) {
            codes[l] = qp_code(grid, target[l], t->scale[l], 0);
            value[l] = qp_value(grid, codes[l], t->scale[l], 0);
        }
}

/* Takes the best codes of column k of the tile where they lower the loss; false when they do nowhere. */
static bool step(const struct qp_grid *grid, float h, int64_t k, struct tile *t)
{
    float *q = t->q + k * LANES, *g = t->g + k * LANES, *delta = t->delta + k * LANES;
    float target[LANES], value[LANES], gain[LANES];
    uint8_t codes[LANES];
    int64_t steps = 0;

    for (int l = 0; l < LANES; l++)
        target[l] = q[l] + g[l] / h;
    quantize_lanes(grid, t, target, codes, value);
    for (int l = 0; l < LANES; l++) {
        float d = value[l] - q[l], gained = d * (2 * g[l] - d * h);
        bool better = gained > 0;
        gain[l] = better ? gained : 0;
        delta[l] = better ? d : 0;
        q[l] = better ? value[l] : q[l];
        t->codes[k * LANES + l] = better ? codes[l] : t->codes[k * LANES + l];
        steps += better;
    }
    for (int l = 0; l < LANES; l++)
        t->gain[l] += gain[l];
    t->steps += steps;
    return steps > 0;
}

static void sweep_tile(const struct chunk *c, int64_t row, int64_t rows, int64_t at, int64_t count, struct tile *t)
{
    const struct qp_polish *p = c->p;
    int64_t group = -1;

    for (int64_t k = 0; k < count; k++) {
        const float *h = p->h + (at + k) * p->cols + at;
        int64_t mine = p->group == 0 ? 0 : (at + k) / p->group;
        if (mine != group)
            load_scales(p, c->first + row, rows, group = mine, t);
        if (!(h[k] > 0) || !step(p->grid, h[k], k, t))
            continue;
        vf delta = v_load(t->delta + k * LANES);
        for (int64_t j = k + 1; j < count; j++)
            v_store(t->g + j * LANES, v_load(t->g + j * LANES) - delta * v_set(h[j]));
    }
}

/* Lanes behind the last row work on a gradient of 0, which changes nothing: their codes are those of its values. */
static void load_tile(const struct chunk *c, int64_t row, int64_t rows, int64_t at, int64_t count, struct tile *t)
{
    int64_t cols = c->p->cols;

    for (int64_t l = 0; l < LANES; l++)
        for (int64_t k = 0; k < count; k++) {
            int64_t from = (row + (l < rows ? l : 0)) * cols + at + k;
            t->q[k * LANES + l] = c->q[from];
            t->g[k * LANES + l] = l < rows ? c->g[from] : 0;
            t->delta[k * LANES + l] = 0;
            t->codes[k * LANES + l] = c->p->codes[c->first * cols + from];
        }
    for (int l = 0; l < LANES; l++)
        t->gain[l] = 0;
    t->steps = 0;
}

static void store_tile(const struct chunk *c, int64_t row, int64_t rows, int64_t at, int64_t count,
                       const struct tile *t)
{
    int64_t cols = c->p->cols;

    for (int64_t l = 0; l < rows; l++) {
        for (int64_t k = 0; k < count; k++) {
            int64_t to = (row + l) * cols + at + k;
            c->q[to] = t->q[k * LANES + l];
            c->change[(row + l) * BLOCK + k] = t->delta[k * LANES + l];
            c->p->codes[c->first * cols + to] = t->codes[k * LANES + l];
        }
        c->gain[row + l] += t->gain[l];
    }
}

static int64_t sweep_block(const struct chunk *c, int64_t at, int64_t count)
{
    int64_t steps = 0;

#pragma omp parallel for reduction(+ : steps) if (c->rows * count >= QP_PARALLEL_ELEMENTS / 4)
    for (int64_t row = 0; row < c->rows; row += LANES) {
        int64_t rows = c->rows - row < LANES ? c->rows - row : LANES;
        struct tile t;
        load_tile(c, row, rows, at, count, &t);
        sweep_tile(c, row, rows, at, count, &t);
        store_tile(c, row, rows, at, count, &t);
        steps += t.steps;
    }
    return steps;
}

/* g = H (w - q) + p */
static void gradient(const struct chunk *c)
{
    const struct qp_polish *p = c->p;
    int64_t count = c->rows * p->cols, from = c->first * p->cols;

    for (int64_t i = 0; i < count; i++)
        c->change[i] = p->w[from + i] - c->q[i];
    for (int64_t i = 0; i < count && p->pull != NULL; i++)
        c->g[i] = p->pull[from + i];
    qp_gemm_cpu(false, false, c->rows, p->cols, p->cols, 1, c->change, p->cols, p->h, p->cols, p->pull == NULL ? 0 : 1,
                c->g, p->cols);
}

static int64_t sweep(const struct chunk *c)
{
    const struct qp_polish *p = c->p;
    int64_t steps = 0;

    gradient(c);
    for (int64_t at = 0; at < p->cols; at += BLOCK) {
        int64_t count = p->cols - at < BLOCK ? p->cols - at : BLOCK, rest = p->cols - at - count;
        int64_t changed = sweep_block(c, at, count);
        if (changed > 0 && rest > 0)
            qp_gemm_cpu(false, false, c->rows, rest, count, -1, c->change, BLOCK, p->h + at * p->cols + at + count,
                        p->cols, 1, c->g + at + count, p->cols);
        steps += changed;
    }
    return steps;
}

static int64_t polish_chunk(struct chunk *c)
{
    const struct qp_polish *p = c->p;
    int64_t scales = p->group == 0 ? 0 : c->first * qp_groups(p->cols, p->group), steps = 0, changed = 1;

    QP_NAME(qp_dequantize)
    (p->grid, c->rows, p->cols, p->group, p->codes + c->first * p->cols, p->scale + scales,
     p->zero == NULL ? NULL : p->zero + scales, c->q);
    for (int64_t r = 0; r < c->rows; r++)
        c->gain[r] = 0;
    for (int i = 0; i < p->sweeps && changed > 0; i++)
        steps += changed = sweep(c);
    for (int64_t r = 0; r < c->rows && p->gain != NULL; r++)
        p->gain[c->first + r] = c->gain[r];
    return steps;
}

int64_t QP_NAME(qp_polish)(const struct qp_polish *p)
{
    int64_t rows = p->rows < CHUNK ? p->rows : CHUNK, size = rows * p->cols, steps = 0;
    int64_t changes = p->cols < BLOCK ? rows * BLOCK : size;
    double *gain = qp_scratch((size_t)rows, sizeof *gain);
    float *memory = qp_scratch((size_t)(2 * size + changes), sizeof *memory);
    struct chunk c = {.p = p, .q = memory, .g = memory + size, .change = memory + 2 * size, .gain = gain};

    for (; c.first < p->rows; c.first += CHUNK) {
        c.rows = p->rows - c.first < CHUNK ? p->rows - c.first : CHUNK;
        steps += polish_chunk(&c);
    }
    free(memory);
    free(gain);
    return steps;
}
