#include "kernels/cpu/amx/amx.h"
#include "kernels/cpu/amx/tiles.h"

/* A block of y is two tiles by two, and stays in registers over TILES tiles of columns, so few that those of w lie in
 * the first cache while all rows of x meet them. Threads share blocks of TALL rows and WIDE columns. */
enum { ROWS = QP_TILE_ROWS, COLUMNS = QP_TILE_COLUMNS, TILES = 16, TALL = 256, WIDE = 1024 };

/* Bytes between rows of a tile in memory. */
enum { LINE = 64 };

/* One of the tiles of y that a block consists of: where it lies, or a copy of what of it belongs to y. */
struct target {
    float *at, *y;
    int64_t stride;           /* bytes */
    int64_t rows, first, end; /* of the copy, columns [first, end) */
    float copy[ROWS * ROWS] __attribute__((aligned(64)));
};

static void open_target(const struct qp_linear_split *l, int64_t row, int64_t column, struct target *t)
{
    t->rows = l->m - row < ROWS ? l->m - row : ROWS;
    t->first = l->into > column ? l->into - column : 0;
    t->end = l->end - column < ROWS ? l->end - column : ROWS;
    t->at = t->y = l->y + row * l->y_stride + column;
    t->stride = l->y_stride * (int64_t)sizeof(float);
    if (t->rows == ROWS && t->first == 0 && t->end == ROWS)
        return;
    memset(t->copy, 0, sizeof t->copy);
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t c = t->first; c < t->end; c++)
            t->copy[r * ROWS + c] = t->y[r * l->y_stride + c];
    t->at = t->copy;
    t->stride = LINE;
}

static void close_target(const struct qp_linear_split *l, const struct target *t)
{
    if (t->at == t->y)
        return;
    for (int64_t r = 0; r < t->rows; r++)
        for (int64_t c = t->first; c < t->end; c++)
            t->y[r * l->y_stride + c] = t->copy[r * ROWS + c];
}

/* The tiles of y in registers 0 to 3 += those of x by those of w, `count` of each. */
static inline void multiply_tiles(const uint16_t *const x[2], const uint16_t *const w[2], int64_t count)
{
    for (int64_t i = 0; i < count * 2 * QP_TILE; i += 2 * QP_TILE) {
        _tile_loadd(4, x[0] + i + QP_TILE, LINE);
        _tile_loadd(6, w[0] + i, LINE);
        _tile_loadd(7, w[1] + i, LINE);
        _tile_loadd(5, x[1] + i + QP_TILE, LINE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, x[0] + i, LINE);
        _tile_loadd(5, x[1] + i, LINE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, w[0] + i + QP_TILE, LINE);
        _tile_loadd(7, w[1] + i + QP_TILE, LINE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* A tile of columns of which [from, to) count: the others of x are zeros. */
static void multiply_edge(const struct qp_linear_split *l, const uint16_t *const x[2], const uint16_t *const w[2],
                          int64_t tile)
{
    uint16_t copy[2][2 * QP_TILE] __attribute__((aligned(64)));
    int64_t at = tile * COLUMNS, first = l->from > at ? l->from - at : 0;
    int64_t end = l->to - at < COLUMNS ? l->to - at : COLUMNS;

    memset(copy, 0, sizeof copy);
    for (int i = 0; i < 2; i++)
        for (int64_t r = 0; r < 2 * ROWS; r++)
            memcpy(copy[i] + r * COLUMNS + first, x[i] + r * COLUMNS + first, (size_t)(end - first) * sizeof **copy);
    tiles_see_memory();
    multiply_tiles((const uint16_t *[]){copy[0], copy[1]}, w, 1);
}

/* Tiles [tile, last) of columns. */
static void multiply_span(const struct qp_linear_split *l, const uint16_t *const x[2], const uint16_t *const w[2],
                          int64_t tile, int64_t last)
{
    int64_t start = tile;

    for (; tile < last; tile = start) {
        const uint16_t *at[] = {x[0] + tile * 2 * QP_TILE, x[1] + tile * 2 * QP_TILE};
        const uint16_t *by[] = {w[0] + tile * 2 * QP_TILE, w[1] + tile * 2 * QP_TILE};
        while (start < last && start * COLUMNS >= l->from && (start + 1) * COLUMNS <= l->to)
            start++;
        if (start > tile)
            multiply_tiles(at, by, start - tile);
        else
            multiply_edge(l, at, by, start++);
    }
}

/* Where y ends, the second tile is the first once more, and its sums go nowhere. */
static void multiply_block(const struct qp_linear_split *l, int64_t row, int64_t column, int64_t tile, int64_t last)
{
    struct target t[4];
    int64_t low = row + ROWS < l->m ? row + ROWS : row, right = column + ROWS < l->end ? column + ROWS : column;
    const uint16_t *x[] = {l->x + qp_tile_at(l->across, row, 0), l->x + qp_tile_at(l->across, low, 0)};
    const uint16_t *w[] = {l->w + qp_tile_at(l->across, column, 0), l->w + qp_tile_at(l->across, right, 0)};

    for (int i = 0; i < 4; i++)
        open_target(l, i / 2 ? low : row, i % 2 ? right : column, &t[i]);
    tiles_see_memory();
    _tile_loadd(0, t[0].at, t[0].stride);
    _tile_loadd(1, t[1].at, t[1].stride);
    _tile_loadd(2, t[2].at, t[2].stride);
    _tile_loadd(3, t[3].at, t[3].stride);
    multiply_span(l, x, w, tile, last);
    _tile_stored(3, t[3].at, t[3].stride);
    _tile_stored(2, t[2].at, t[2].stride);
    _tile_stored(1, t[1].at, t[1].stride);
    _tile_stored(0, t[0].at, t[0].stride);
    tiles_see_memory();
    for (int i = 3; i >= 0; i--)
        close_target(l, &t[i]);
}

/* Rows [top, bottom) of y, and columns [left, right), from one that begins a tile. */
static void multiply_part(const struct qp_linear_split *l, int64_t top, int64_t left, int64_t right)
{
    int64_t bottom = top + TALL < l->m ? top + TALL : l->m, end = qp_tiles_across(l->to);
    struct tile_shapes before;

    tiles_begin(&before);
    for (int64_t tile = l->from / COLUMNS; tile < end; tile += TILES)
        for (int64_t column = left; column < right; column += SIDE)
            for (int64_t row = top; row < bottom; row += SIDE)
                multiply_block(l, row, column, tile, tile + TILES < end ? tile + TILES : end);
    tiles_end(&before);
}

void qp_linear_split_amx(const struct qp_linear_split *l)
{
    int64_t start = l->into / ROWS * ROWS;
    int64_t down = (l->m + TALL - 1) / TALL, across = (l->end - start + WIDE - 1) / WIDE;

    if (l->from >= l->to || l->into >= l->end)
        return;
#pragma omp parallel for collapse(2) schedule(dynamic, 1) if (down * across > 1)
    for (int64_t i = 0; i < down; i++)
        for (int64_t j = 0; j < across; j++) {
            int64_t left = start + j * WIDE;
            multiply_part(l, i * TALL, left, left + WIDE < l->end ? left + WIDE : l->end);
        }
}
