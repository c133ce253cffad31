#include "kernels/split.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/codec.h"
#include "kernels/scratch.h"

static void split(float x, uint16_t *to)
{
    to[0] = qp_f32_to_bf16(x);
    to[QP_TILE] = qp_f32_to_bf16(x - qp_bf16_to_f32(to[0]));
}

void qp_split_left_ref(const struct qp_split_left *s)
{
    int64_t end = s->from < s->to ? qp_tiles_across(s->to) * QP_TILE_COLUMNS : s->to;

    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t c = s->from; c < end; c++)
            split(c < s->to ? s->x[r * s->stride + c] : 0, s->tiles + qp_left_at(s->across, r, c));
}

void qp_split_right_ref(int64_t rows, int64_t columns, float *w)
{
    int64_t across = qp_tiles_across(columns), size = qp_tiles_size(rows, columns);
    float *copy = qp_scratch((size_t)(rows * columns), sizeof *copy);

    if (copy == NULL)
        return;
    memcpy(copy, w, (size_t)(rows * columns) * sizeof *w);
    memset(w, 0, (size_t)size * sizeof *w);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++)
            split(copy[r * columns + c], (uint16_t *)w + qp_right_at(across, r, c));
    free(copy);
}

static double part(const uint16_t *tiles, int64_t at)
{
    return qp_bf16_to_f32(tiles[at]);
}

void qp_linear_split_ref(const struct qp_linear_split *l)
{
    for (int64_t i = 0; i < l->m; i++)
        for (int64_t j = l->into; j < l->end; j++) {
            double sum = 0;
            for (int64_t p = l->from; p < l->to; p++) {
                int64_t a = qp_left_at(l->across, i, p), b = qp_right_at(l->across, j, p);
                sum +=
                    part(l->x, a) * (part(l->w, b) + part(l->w, b + QP_TILE)) + part(l->x, a + QP_TILE) * part(l->w, b);
            }
            l->y[i * l->y_stride + j] += (float)sum;
        }
}
