#include <stdlib.h>

#include "kernels/cpu/amx/amx.h"
#include "kernels/scratch.h"

enum { ROWS = QP_TILE_ROWS, COLUMNS = QP_TILE_COLUMNS };

static inline __attribute__((always_inline)) void split_piece(int64_t count, const float *x, uint16_t *to)
{
    for (int64_t i = 0; i < count; i++) {
        uint16_t high = qp_f32_to_bf16(x[i]);
        to[i] = high;
        to[QP_TILE + i] = qp_f32_to_bf16(x[i] - qp_bf16_to_f32(high));
    }
}

/* Columns [from, to) of a row, and zeros after them. */
static void split_row(const struct qp_split_left *s, int64_t row)
{
    const float *x = s->x + row * s->stride;

    for (int64_t c = s->from, end; c < s->to; c = end) {
        uint16_t *to = s->tiles + qp_left_at(s->across, row, c);
        end = (c / COLUMNS + 1) * COLUMNS;
        if (c % COLUMNS == 0 && end <= s->to) {
            split_piece(COLUMNS, x + c, to);
            continue;
        }
        split_piece((end < s->to ? end : s->to) - c, x + c, to);
        for (int64_t i = s->to; i < end; i++)
            to[i - c] = to[QP_TILE + i - c] = 0;
    }
}

void qp_split_left_amx(const struct qp_split_left *s)
{
#pragma omp parallel for schedule(static) if (s->rows * (s->to - s->from) >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < s->rows; r++)
        split_row(s, r);
}

/* A tile from ROWS rows of `stride` numbers: pairs of columns become rows. */
static void split_tile(const float *w, int64_t stride, uint16_t *to)
{
    __m512i high[ROWS], low[ROWS];

    for (int r = 0; r < ROWS; r++) {
        uint16_t parts[QP_TILE + COLUMNS];
        split_piece(COLUMNS, w + r * stride, parts);
        high[r] = _mm512_loadu_si512(parts);
        low[r] = _mm512_loadu_si512(parts + QP_TILE);
    }
    v_transpose_integers(high);
    v_transpose_integers(low);
    for (int r = 0; r < ROWS; r++) {
        _mm512_storeu_si512(to + r * COLUMNS, high[r]);
        _mm512_storeu_si512(to + QP_TILE + r * COLUMNS, low[r]);
    }
}

/* Rows from `row` on, by way of copy[ROWS, across * COLUMNS], which ends with zeros. */
static void split_panel(int64_t rows, int64_t columns, int64_t row, float *w, float *copy)
{
    int64_t across = qp_tiles_across(columns), wide = across * COLUMNS, count = rows - row < ROWS ? rows - row : ROWS;
    uint16_t *to = (uint16_t *)w + qp_tile_at(across, row, 0);

    for (int64_t r = 0; r < ROWS; r++) {
        memset(copy + r * wide, 0, (size_t)wide * sizeof *copy);
        if (r < count)
            memcpy(copy + r * wide, w + (row + r) * columns, (size_t)columns * sizeof *copy);
    }
    for (int64_t t = 0; t < across; t++)
        split_tile(copy + t * COLUMNS, wide, to + t * 2 * QP_TILE);
}

/* Rows of tiles are longer than those of numbers where there are columns of zeros: they are made from the last on. */
void qp_split_right_amx(int64_t rows, int64_t columns, float *w)
{
    int64_t panels = (rows + ROWS - 1) / ROWS;

#pragma omp parallel if (columns % COLUMNS == 0 && rows * columns >= QP_PARALLEL_ELEMENTS)
    {
        float *copy = qp_scratch((size_t)(ROWS * qp_tiles_across(columns) * COLUMNS), sizeof *copy);
#pragma omp for schedule(static)
        for (int64_t p = panels - 1; p >= 0; p--)
            if (copy != NULL)
                split_panel(rows, columns, p * ROWS, w, copy);
        free(copy);
    }
}
