#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/vector/vector.h"
#include "kernels/scratch.h"

/* w is packed for COLUMNS columns and up to MOST_DEPTH numbers of their sums at a time, once for all threads; a thread
 * packs ROWS rows of x for them and multiplies block by block. Sums are cut by k alone, and each element has its own,
 * so that neither threads nor the rows around it matter. */
enum { ROWS = 256, COLUMNS = 1024, MOST_DEPTH = 768 / DEPTH };

/* y[m, n] = x wᵀ, or y += that. */
struct product {
    int64_t m, n, k;
    const uint16_t *x, *w;
    bool add;
    float *y;
};

/* The part of a product that is packed at once. */
struct piece {
    const struct product *p;
    int64_t column, columns; /* of y */
    int64_t at, length;      /* along k */
    int64_t depth, panel;    /* steps of `length`; numbers in a panel */
    bool add;
};

static int64_t panels_of(int64_t count)
{
    return (count + SIDE - 1) / SIDE;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Tile `half` of a panel at step l: 16 rows of 32 numbers, zeros where there are none. */
static void load_tile(const struct piece *q, int64_t rows, const uint16_t *x, int64_t l, __m512i v[16])
{
    int64_t left = q->length - l * DEPTH;
    __mmask32 wanted = left >= DEPTH ? ~(__mmask32)0 : ((__mmask32)1 << left) - 1;

#pragma GCC unroll 16
    for (int i = 0; i < ROWS_OF_TILE; i++)
        v[i] = i < rows ? _mm512_maskz_loadu_epi16(wanted, x + i * q->p->k + l * DEPTH) : _mm512_setzero_si512();
}

/* Up to SIDE rows of x or w, as a panel of a left or a right operand. */
static inline __attribute__((always_inline)) void pack_panel(const struct piece *q, int64_t rows, const uint16_t *x,
                                                             bool right, uint16_t *to)
{
    __m512i v[ROWS_OF_TILE];

    for (int64_t l = 0; l < q->depth; l++)
        for (int half = 0; half < 2; half++, to += TILE) {
            int64_t first = half * ROWS_OF_TILE;
            load_tile(q, rows - first, x + first * q->p->k, l, v);
            if (right)
                v_transpose_integers(v);
            for (int i = 0; i < ROWS_OF_TILE; i++)
                _mm512_store_si512(to + i * DEPTH, v[i]);
        }
}

static void pack_w(const struct piece *q, uint16_t *packed)
{
#pragma omp for schedule(static)
    for (int64_t j = 0; j < panels_of(q->columns); j++)
        pack_panel(q, smaller(q->columns - j * SIDE, SIDE), q->p->w + (q->column + j * SIDE) * q->p->k + q->at, true,
                   packed + j * q->panel);
}

/* Rows from `first` on, up to ROWS of them. */
static void multiply_rows(const struct piece *q, int64_t first, const uint16_t *w, uint16_t *x)
{
    const struct product *p = q->p;
    int64_t rows = smaller(p->m - first, ROWS);

    for (int64_t i = 0; i < panels_of(rows); i++)
        pack_panel(q, smaller(rows - i * SIDE, SIDE), p->x + (first + i * SIDE) * p->k + q->at, false,
                   x + i * q->panel);
    for (int64_t j = 0; j < panels_of(q->columns); j++)
        for (int64_t i = 0; i < panels_of(rows); i++) {
            struct block block;
            block_place(&block, rows, q->columns, p->y + first * p->n + q->column, p->n, i, j);
            block_open(&block, q->add);
            block_add(q->depth, x + i * q->panel, w + j * q->panel);
            block_close(&block);
        }
}

static struct piece piece_of(const struct product *p, int64_t column, int64_t at, int64_t length)
{
    struct piece q = {.p = p,
                      .column = column,
                      .columns = smaller(p->n - column, COLUMNS),
                      .at = at,
                      .length = smaller(p->k - at, length),
                      .add = p->add || at > 0};
    q.depth = (q.length + DEPTH - 1) / DEPTH;
    q.panel = q.depth * STEP;
    return q;
}

/* All threads together; a thread without a workspace does nothing but wait for the others. */
static void multiply_pieces(const struct product *p, int64_t length, uint16_t *w)
{
    int64_t size = panels_of(smaller(p->m, ROWS)) * SIDE * length;
    struct tile_shapes before;
    uint16_t *x = qp_scratch_borrow((size_t)size, sizeof *x);

    tiles_begin(&before);
    for (int64_t column = 0; column < p->n; column += COLUMNS)
        for (int64_t at = 0; at < p->k; at += length) {
            struct piece q = piece_of(p, column, at, length);
            pack_w(&q, w);
#pragma omp for schedule(dynamic, 1)
            for (int64_t row = 0; row < p->m; row += ROWS)
                if (x != NULL)
                    multiply_rows(&q, row, w, x);
        }
    tiles_end(&before);
    qp_scratch_return(x);
}

static void multiply(const struct product *p)
{
    int64_t steps = (p->k + DEPTH - 1) / DEPTH, pieces = (steps + MOST_DEPTH - 1) / MOST_DEPTH;
    if (p->m == 0 || p->n == 0 || p->k == 0)
        return;
    int64_t length = (steps + pieces - 1) / pieces * DEPTH;
    int64_t size = panels_of(smaller(p->n, COLUMNS)) * SIDE * length;
    uint16_t *w = qp_scratch_borrow((size_t)size, sizeof *w);

    if (w == NULL)
        return;
#pragma omp parallel if (p->m > ROWS || p->m * p->n * p->k >= (int64_t)QP_PARALLEL_ELEMENTS * 64)
    multiply_pieces(p, length, w);
    qp_scratch_return(w);
}

void qp_linear_bf16_amx(int64_t m, int64_t n, int64_t k, const uint16_t *x, const uint16_t *w, bool add, float *y)
{
    if (k == 0 && !add)
        memset(y, 0, (size_t)(m * n) * sizeof *y);
    multiply(&(struct product){m, n, k, x, w, add, y});
}
