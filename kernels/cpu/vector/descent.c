#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/vector/vector.h"
#include "kernels/failure.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"

/* A thread takes some rows through all sweeps. A sweep goes over parts of PART columns, and in a part over tiles of
 * LANES rows, which are tried transposed, so that a column is one vector; a change reaches the columns after it in its
 * part at once. Few codes change, so each row has lists of its changes, of this sweep and the one before: when a part
 * is reached, all changes since it was last reached are applied to its gradients, by its columns of H, copied so that
 * they lie together in the cache. So a sweep loads and stores each gradient once. The order of all sums follows from
 * the shape, whatever the threads. */
enum { PART = 64, VECTORS = PART / LANES, SETS = 8 / VECTORS, LEAST = 64, MOST = 3072 };

struct change {
    uint32_t column;
    float amount;
};

/* What a row changed in one sweep, by rising columns. Those before `first` are applied. */
struct list {
    int64_t first, count;
    struct change *at;
};

/* The rows that a thread works on. */
struct chunk {
    const struct qp_descent *p;
    int64_t first, rows, space; /* space: of a list */
    float *panel;               /* [cols, PART], columns of H, zeros after the last */
    struct list *lists;         /* [rows, 2] */
    double *gain;               /* [rows] */
    bool *active;               /* [rows]: whether the tile that begins with the row changed in the last sweep */
    int now;                    /* which lists are this sweep's */
};

/* A tile's part: a column is LANES numbers. Codes are integers, of small floats their bits. */
struct part {
    float g[PART * LANES], codes[PART * LANES];
    float scale[LANES], zero[LANES], gain[LANES], delta[LANES];
    int64_t rows;
};

static struct list *list_of(const struct chunk *c, int64_t row, int which)
{
    return c->lists + 2 * row + which;
}

static float *gradient_of(const struct chunk *c, int64_t row)
{
    return c->p->gradient + (c->first + row) * c->p->cols;
}

/* sum[PART] less what the list's changes from `first` on make of it. */
static inline __attribute__((always_inline)) void apply_list(const float *panel, const struct list *list,
                                                             vf sum[SETS][VECTORS])
{
    int64_t i = list->first;

    for (; i + SETS <= list->count; i += SETS)
#pragma GCC unroll 2
        for (int s = 0; s < SETS; s++) {
            const float *h = panel + (int64_t)list->at[i + s].column * PART;
            vf amount = v_set(-list->at[i + s].amount);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; v++)
                sum[s][v] = v_fma(amount, v_load(h + v * LANES), sum[s][v]);
        }
    for (; i < list->count; i++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++)
            sum[0][v] = v_fma(v_set(-list->at[i].amount),
                              v_load(panel + (int64_t)list->at[i].column * PART + v * LANES), sum[0][v]);
}

/* to[PART] = g[PART] less what is due: changes of the sweep before in columns from `at` on, and all of this one. */
static void apply_changes(const struct chunk *c, int64_t row, int64_t at, const float *g, float *to)
{
    struct list *old = list_of(c, row, !c->now), *new = list_of(c, row, c->now);
    vf sum[SETS][VECTORS] = {0};

    while (old->first < old->count && old->at[old->first].column < at)
        old->first++;
    for (int v = 0; v < VECTORS; v++)
        sum[0][v] = v_load(g + v * LANES);
    apply_list(c->panel, old, sum);
    apply_list(c->panel, new, sum);
    for (int v = 0; v < VECTORS; v++) {
        for (int s = 1; s < SETS; s++)
            sum[0][v] = sum[0][v] + sum[s][v];
        v_store(to + v * LANES, sum[0][v]);
    }
}

/* ---- a list that is full ---- */

/* Brings the whole row up to date, by the rows of H: columns before `at` have seen all but this sweep's changes from
 * their own part on, the others what apply_changes() does. */
static void apply_to_row(const struct chunk *c, int64_t row, int64_t at)
{
    float *g = gradient_of(c, row);
    struct list *old = list_of(c, row, !c->now), *new = list_of(c, row, c->now);

    for (int64_t j = 0; j < c->p->cols; j += PART) {
        int64_t end = j + PART < c->p->cols ? j + PART : c->p->cols;
        for (int which = 0; which < 2; which++) {
            const struct list *list = which == 0 ? old : new;
            for (int64_t i = 0; i < list->count; i++) {
                const float *h = c->p->h + (int64_t)list->at[i].column * c->p->cols;
                bool seen = which == 0 ? j < at || list->at[i].column < j : j < at && list->at[i].column < j;
                for (int64_t k = j; k < end && !seen; k++)
                    g[k] -= list->at[i].amount * h[k];
            }
        }
    }
    *old = (struct list){.at = old->at};
    *new = (struct list){.at = new->at};
}

/* ---- a part ---- */

static void load_scales(const struct chunk *c, int64_t row, int64_t group, struct part *t)
{
    const struct qp_descent *p = c->p;
    for (int64_t l = 0; l < LANES; l++) {
        int64_t r = c->first + row + (l < t->rows ? l : 0);
        int64_t at = p->group == 0 ? 0 : r * qp_groups(p->cols, p->group) + group;
        t->scale[l] = p->scale[at];
        t->zero[l] = p->zero == NULL ? 0 : p->zero[at];
    }
}

/* Gradients of a row are far from those of the next: what the next tile needs is asked for early. */
static void prefetch_gradients(const struct chunk *c, int64_t row, int64_t at)
{
    for (int64_t r = row; r < row + LANES && r < c->rows; r++)
        for (int64_t j = 0; j < PART; j += 64 / (int64_t)sizeof(float))
            __builtin_prefetch(gradient_of(c, r) + at + j, 1);
}

/* Brings the gradients of columns [at, at + count) up to date; to[LANES, PART] gets them, with zeros after the last row
 * and column. */
static void update_gradients(const struct chunk *c, int64_t row, int64_t rows, int64_t at, int64_t count, float *to)
{
    prefetch_gradients(c, row + LANES, at);
    if (rows < LANES || count < PART)
        memset(to, 0, PART * LANES * sizeof *to);
    for (int64_t l = 0; l < rows; l++) {
        float *g = gradient_of(c, row + l) + at, *mine = to + l * PART;
        bool due = list_of(c, row + l, 0)->count + list_of(c, row + l, 1)->count > 0;
        if (count < PART || !due)
            memcpy(mine, g, (size_t)count * sizeof *g);
        if (due)
            apply_changes(c, row + l, at, count < PART ? mine : g, mine);
        if (due)
            memcpy(g, mine, (size_t)count * sizeof *g);
    }
}

/* to[PART, LANES] = from[LANES, PART]ᵀ. */
static void transpose_part(const float *from, float *to)
{
    for (int64_t k = 0; k < PART; k += LANES) {
        vf v[LANES];
        for (int l = 0; l < LANES; l++)
            v[l] = v_load(from + l * PART + k);
        v_transpose(v);
        for (int j = 0; j < LANES; j++)
            v_store(to + (k + j) * LANES, v[j]);
    }
}

static void load_codes(const struct chunk *c, int64_t row, int64_t at, int64_t count, struct part *t)
{
    const uint8_t *codes = c->p->codes + (c->first + row) * c->p->cols + at;
    float wide[PART * LANES];
    uint8_t padded[PART] = {0};

    for (int64_t l = 0; l < LANES; l++) {
        const uint8_t *from = codes + (l < t->rows ? l : 0) * c->p->cols;
        if (count < PART)
            from = memcpy(padded, from, (size_t)count);
        for (int64_t k = 0; k < PART; k += LANES)
            v_store(wide + l * PART + k, c->p->format->codes == QP_I8 ? v_load_int8(from + k) : v_load_uint8(from + k));
    }
    transpose_part(wide, t->codes);
}

/* Tries column k of the part, whose H_kk is h: delta gets the changes that lower the loss, 0 elsewhere. Returns whether
 * there is one. */
static bool try_integers(const struct qp_number_format *format, float h, int64_t k, struct part *t)
{
    vf g = v_load(t->g + k * LANES), scale = v_load(t->scale), zero = v_load(t->zero), none = v_set(0);
    vf old = v_load(t->codes + k * LANES), steps = old + g * v_set(1 / h) / scale;

    steps = v_rint(v_min(v_max(steps, v_set(qp_format_min(format))), v_set(qp_format_max(format))));
    vf d = (steps - zero) * scale - (old - zero) * scale, gained = d * (v_set(2) * g - d * v_set(h));
    vm better = v_less(none, gained);
    d = v_select(better, d, none);
    v_store(t->delta, d);
    v_store(t->gain, v_load(t->gain) + v_select(better, gained, none));
    v_store(t->codes + k * LANES, v_select(better, steps, old));
    return v_equal_bits(d, none) != (1u << LANES) - 1;
}

static bool try_floats(const struct qp_number_format *format, float h, int64_t k, struct part *t)
{
    float *codes = t->codes + k * LANES, inverse = 1 / h;
    const float *g = t->g + k * LANES;
    bool any = false;

    for (int l = 0; l < LANES; l++) {
        float old = qp_value(format, (uint8_t)codes[l], t->scale[l], 0);
        uint8_t code = qp_code(format, old + g[l] * inverse, t->scale[l], 0);
        float d = qp_value(format, code, t->scale[l], 0) - old, gained = d * (2 * g[l] - d * h);
        bool better = gained > 0;
        t->delta[l] = better ? d : 0;
        t->gain[l] += better ? gained : 0;
        codes[l] = better ? code : codes[l];
        any |= better;
    }
    return any;
}

/* Writes a column's codes that changed, and puts them on the rows' lists; returns how many there are. */
static int64_t note_changes(const struct chunk *c, int64_t row, int64_t column, const float *codes,
                            const struct part *t)
{
    unsigned changed = ~v_equal_bits(v_load(t->delta), v_set(0)) & ((1u << LANES) - 1);
    int64_t count = 0;

    for (; changed != 0; changed &= changed - 1, count++) {
        int l = __builtin_ctz(changed);
        struct list *list = list_of(c, row + l, c->now);
        list->at[list->count++] = (struct change){(uint32_t)column, t->delta[l]};
        c->p->codes[(c->first + row + l) * c->p->cols + column] = (uint8_t)(int)codes[l];
    }
    return count;
}

/* Columns [at, at + count) of LANES rows; returns how many codes changed. */
static int64_t sweep_part(const struct chunk *c, int64_t row, int64_t at, int64_t count)
{
    const struct qp_descent *p = c->p;
    int64_t group = -1, steps = 0;
    struct part t = {.rows = c->rows - row < LANES ? c->rows - row : LANES};
    float g[PART * LANES];

    update_gradients(c, row, t.rows, at, count, g);
    transpose_part(g, t.g);
    load_codes(c, row, at, count, &t);
    for (int64_t k = 0; k < count; k++) {
        const float *h = c->panel + (at + k) * PART;
        int64_t mine = p->group == 0 ? 0 : (at + k) / p->group;
        if (mine != group)
            load_scales(c, row, group = mine, &t);
        if (!(h[k] > 0) ||
            !(p->format->codes == QP_I8 ? try_integers(p->format, h[k], k, &t) : try_floats(p->format, h[k], k, &t)))
            continue;
        vf delta = v_load(t.delta);
        for (int64_t j = k + 1; j < count; j++)
            v_store(t.g + j * LANES, v_load(t.g + j * LANES) - delta * v_set(h[j]));
        steps += note_changes(c, row, at + k, t.codes + k * LANES, &t);
    }
    for (int64_t l = 0; l < t.rows; l++) {
        c->gain[row + l] += t.gain[l];
        if (list_of(c, row + l, c->now)->count + PART > c->space)
            apply_to_row(c, row + l, at + count);
    }
    return steps;
}

/* ---- a sweep ---- */

/* Rows of H are far apart: those AHEAD are asked for while one is copied. */
static void copy_panel(const struct chunk *c, int64_t at, int64_t count)
{
    enum { AHEAD = 32, LINE = 64 / sizeof(float) };
    int64_t cols = c->p->cols;
    const float *h = c->p->h + at;

    for (int64_t i = 0; i < cols; i++, h += cols) {
        float *to = c->panel + i * PART;
        if (count < PART) {
            for (int64_t j = 0; j < PART; j++)
                to[j] = j < count ? h[j] : 0;
            continue;
        }
        for (int j = 0; j < PART && i + AHEAD < cols; j += LINE)
            __builtin_prefetch(h + AHEAD * cols + j);
        for (int j = 0; j < PART; j += LANES)
            v_store(to + j, v_load(h + j));
    }
}

/* With `try` false it only brings gradients up to date. */
static int64_t sweep(struct chunk *c, bool try)
{
    int64_t steps = 0, tiles[MOST / LANES] = {0};

    c->now = !c->now;
    for (int64_t r = 0; r < c->rows; r++) {
        list_of(c, r, c->now)->count = list_of(c, r, c->now)->first = 0;
        list_of(c, r, !c->now)->first = 0;
    }
    for (int64_t at = 0; at < c->p->cols && !qp_failure_is_set(); at += PART) {
        int64_t count = c->p->cols - at < PART ? c->p->cols - at : PART;
        copy_panel(c, at, count);
        for (int64_t row = 0; row < c->rows; row += LANES) {
            float g[PART * LANES];
            if (c->active[row] && try)
                tiles[row / LANES] += sweep_part(c, row, at, count);
            else if (c->active[row])
                update_gradients(c, row, c->rows - row < LANES ? c->rows - row : LANES, at, count, g);
        }
    }
    for (int64_t row = 0; row < c->rows; row += LANES) {
        c->active[row] = tiles[row / LANES] > 0;
        steps += tiles[row / LANES];
    }
    return steps;
}

static int64_t descent_chunk(struct chunk *c)
{
    int64_t steps = 0, changed = 1;

    for (int64_t r = 0; r < c->rows; r++) {
        c->gain[r] = 0;
        c->active[r] = true;
        list_of(c, r, 0)->count = list_of(c, r, 1)->count = 0;
    }
    for (int i = 0; i < c->p->sweeps && changed > 0; i++)
        steps += changed = sweep(c, true);
    if (changed > 0 && c->p->sweeps > 0 && !c->p->codes_only)
        sweep(c, false);
    for (int64_t r = 0; r < c->rows && c->p->gain != NULL; r++)
        c->p->gain[c->first + r] = c->gain[r];
    return steps;
}

/* ---- the matrix ---- */

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* A thread's workspace, in one piece; NULL: none. */
static void *open_chunk(struct chunk *c, int64_t rows)
{
    size_t lists = (size_t)(2 * rows) * sizeof *c->lists, gains = (size_t)rows * sizeof *c->gain;
    size_t panel = (size_t)(c->p->cols * PART) * sizeof *c->panel;
    size_t changes = (size_t)(2 * rows * c->space) * sizeof(struct change);
    char *memory = qp_scratch(panel + gains + lists + changes + (size_t)rows, 1);

    if (memory == NULL)
        return NULL;
    c->panel = (float *)memory;
    c->gain = (double *)(memory + panel);
    c->lists = (struct list *)(memory + panel + gains);
    for (int64_t i = 0; i < 2 * rows; i++)
        c->lists[i] = (struct list){.at = (struct change *)(memory + panel + gains + lists) + i * c->space};
    c->active = (bool *)(memory + panel + gains + lists + changes);
    return memory;
}

/* Each chunk reads H once a sweep: as few for each thread as can be, of the same size. */
static int64_t chunk_rows(int64_t rows)
{
    int64_t mine = (rows - 1) / omp_get_max_threads() + 1, chunks = (mine - 1) / MOST + 1;
    int64_t each = (mine - 1) / chunks + 1;
    return round_up(each < LEAST ? LEAST : each, LANES);
}

int64_t QP_NAME(qp_descent)(const struct qp_descent *p)
{
    int64_t rows = chunk_rows(p->rows), steps = 0;

#pragma omp parallel reduction(+ : steps) if (p->rows * p->cols >= QP_PARALLEL_ELEMENTS / 4)
    {
        struct chunk c = {.p = p, .space = p->cols / 8 + 2 * PART};
        void *memory = open_chunk(&c, rows);
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < p->rows; first += rows)
            if (memory != NULL && !qp_failure_is_set()) {
                c.first = first;
                c.rows = p->rows - first < rows ? p->rows - first : rows;
                steps += descent_chunk(&c);
            }
        free(memory);
    }
    return steps;
}
