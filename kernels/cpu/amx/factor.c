#include <stdlib.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/vector/vector.h"
#include "kernels/scratch.h"

/* Each number is the sum of PARTS BF16 ones, within 2^-24 of it, and a product of two numbers the sum of the six
 * products of parts that are not below that: as exact as float32's, which pivots that are small beside H's diagonal
 * need. Steps of a panel (tiles.h) have the tiles of its high parts first. A thread takes blocks of TALL by WIDE
 * panels. */
enum { PARTS = 3, STEPS = PARTS * STEP, TALL = 8, WIDE = 32 };

/* a -= p pᵀ; `left` is -p. */
struct pass {
    const struct qp_take_off *t;
    int64_t depth, panels; /* steps of columns of p; panels of its rows */
    uint16_t *left, *right;
};

/* The parts of the first `count` of DEPTH numbers, and zeros. */
static inline __attribute__((always_inline)) void split_piece(int64_t count, const float *x, uint16_t *to)
{
    for (int i = 0; i < DEPTH; i++) {
        float rest = i < count ? -x[i] : 0;
        for (int part = 0; part < PARTS; part++) {
            to[part * STEP + i] = qp_f32_to_bf16(rest);
            rest -= qp_bf16_to_f32(to[part * STEP + i]);
        }
    }
}

/* The tiles of 16 rows, from `row` on, and a step's columns, from `column` on; pairs of columns of the right operand
 * become rows. */
static void pack_tiles(const struct qp_take_off *t, int64_t row, int64_t column, uint16_t *left, uint16_t *right)
{
    __m512i pair[ROWS_OF_TILE], sign = _mm512_set1_epi16(INT16_MIN);

    for (int64_t r = 0; r < ROWS_OF_TILE; r++) {
        const float *x = t->p + (row + r) * t->p_stride + column;
        if (row + r < t->rows && column + DEPTH <= t->depth)
            split_piece(DEPTH, x, left + r * DEPTH);
        else
            split_piece(row + r < t->rows ? t->depth - column : 0, x, left + r * DEPTH);
    }
    for (int part = 0; part < PARTS; part++) {
        for (int r = 0; r < ROWS_OF_TILE; r++)
            pair[r] = _mm512_xor_si512(_mm512_loadu_si512(left + part * STEP + r * DEPTH), sign);
        v_transpose_integers(pair);
        for (int r = 0; r < ROWS_OF_TILE; r++)
            _mm512_storeu_si512(right + part * STEP + r * DEPTH, pair[r]);
    }
}

static void pack_panel(const struct pass *p, int64_t panel)
{
    for (int64_t l = 0; l < p->depth; l++)
        for (int half = 0; half < 2; half++) {
            int64_t at = (panel * p->depth + l) * STEPS + half * TILE;
            pack_tiles(p->t, panel * SIDE + half * ROWS_OF_TILE, l * DEPTH, p->left + at, p->right + at);
        }
}

static inline void load_left(const uint16_t *a)
{
    _tile_loadd(4, a, 2 * DEPTH);
    _tile_loadd(5, a + TILE, 2 * DEPTH);
}

static inline void load_right(const uint16_t *b)
{
    _tile_loadd(6, b, 2 * DEPTH);
    _tile_loadd(7, b + TILE, 2 * DEPTH);
}

static inline void add_products(void)
{
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

/* The block in tiles 0 to 3 += the parts' products, small ones first. */
static void add_parts(int64_t depth, const uint16_t *a, const uint16_t *b)
{
    for (int64_t l = 0; l < depth; l++, a += STEPS, b += STEPS) {
        load_left(a + 2 * STEP);
        load_right(b);
        add_products();
        load_left(a + STEP);
        add_products();
        load_right(b + STEP);
        add_products();
        load_left(a);
        add_products();
        load_right(b + 2 * STEP);
        add_products();
        load_right(b);
        add_products();
    }
}

static void add_block(const void *pass, int64_t i, int64_t j)
{
    const struct pass *p = pass;
    const struct qp_take_off *t = p->t;
    struct block block;

    block_place(&block, t->rows, t->rows, t->a, t->stride, i, j);
    block_open(&block, true);
    add_parts(p->depth, p->left + i * p->depth * STEPS, p->right + j * p->depth * STEPS);
    block_close(&block);
}

/* Parts of one operand with so many rows and columns. */
static int64_t parts_of(int64_t rows, int64_t columns)
{
    return (rows + SIDE - 1) / SIDE * ((columns + DEPTH - 1) / DEPTH) * STEPS;
}

static void take_off(const struct qp_take_off *t)
{
    struct pass p = {.t = t, .depth = (t->depth + DEPTH - 1) / DEPTH, .panels = (t->rows + SIDE - 1) / SIDE};

    p.left = t->space;
    p.right = p.left + parts_of(t->rows, t->depth);
#pragma omp parallel if (p.panels > TALL)
    {
        struct tile_shapes before;
#pragma omp for schedule(static)
        for (int64_t j = 0; j < p.panels; j++)
            pack_panel(&p, j);
        tiles_begin(&before);
        blocks_above_diagonal(p.panels, TALL, WIDE, add_block, &p);
        tiles_end(&before);
    }
}

int64_t qp_factor_amx(int64_t n, float *h)
{
    int64_t columns = n < QP_FACTOR_COLUMNS ? n : QP_FACTOR_COLUMNS;
    uint16_t *space = qp_scratch((size_t)(2 * parts_of(n, columns)) + 1, sizeof *space);
    int64_t failed = space == NULL ? -1 : qp_factor_by(n, h, take_off, space);

    free(space);
    return failed;
}
