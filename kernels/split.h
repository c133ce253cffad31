/* Products of float32 matrices as products of BF16 ones: each number as the sum of two. */
#ifndef QUANTPIPE_KERNELS_SPLIT_H
#define QUANTPIPE_KERNELS_SPLIT_H

#include <stdint.h>

/* A split of x: high = BF16(x), low = BF16(x - high), together x within 2^-16 |x|, but for subnormal numbers. The parts
 * of a matrix [rows, columns] lie in tiles as the registers of AMX take them: QP_TILE_ROWS rows by QP_TILE_COLUMNS
 * columns, first their high parts, then their low ones; tiles of the same rows follow each other. In a tile of the left
 * operand x of x wᵀ rows follow each other, in one of the right operand w pairs of columns do. */
enum { QP_TILE_ROWS = 16, QP_TILE_COLUMNS = 32, QP_TILE = QP_TILE_ROWS * QP_TILE_COLUMNS };

/* Tiles that cover so many columns. */
static inline int64_t qp_tiles_across(int64_t columns)
{
    return (columns + QP_TILE_COLUMNS - 1) / QP_TILE_COLUMNS;
}

/* The memory of a split matrix, in numbers of 32 bits. */
static inline int64_t qp_tiles_size(int64_t rows, int64_t columns)
{
    return (rows + QP_TILE_ROWS - 1) / QP_TILE_ROWS * qp_tiles_across(columns) * QP_TILE;
}

/* Where a tile begins, in parts. */
static inline int64_t qp_tile_at(int64_t across, int64_t row, int64_t column)
{
    return (row / QP_TILE_ROWS * across + column / QP_TILE_COLUMNS) * 2 * QP_TILE;
}

/* Where the high part of an element is; its low part comes QP_TILE parts later. */
static inline int64_t qp_left_at(int64_t across, int64_t row, int64_t column)
{
    return qp_tile_at(across, row, column) + row % QP_TILE_ROWS * QP_TILE_COLUMNS + column % QP_TILE_COLUMNS;
}

static inline int64_t qp_right_at(int64_t across, int64_t row, int64_t column)
{
    return qp_tile_at(across, row, column) + column % QP_TILE_COLUMNS / 2 * QP_TILE_COLUMNS + row % QP_TILE_ROWS * 2 +
           column % 2;
}

/* Columns [from, to) of x[rows, .], rows `stride` numbers apart, become a left operand's; what is left of their last
 * tile becomes zeros. Exact. */
struct qp_split_left {
    int64_t rows, from, to;
    const float *x;
    int64_t stride, across;
    uint16_t *tiles;
};
typedef void qp_split_left_fn(const struct qp_split_left *s);

/* w[rows, columns] becomes a right operand in place, in memory of qp_tiles_size numbers; zeros around it. Exact. */
typedef void qp_split_right_fn(int64_t rows, int64_t columns, float *w);

/* y[m, .], columns [into, end), += x wᵀ, for x[m, .] and w[., .] of which columns [from, to) count, and of w rows
 * [into, end). The product of the low parts is left out: within 2^-14 of the sums of |x| |w|, for any order of float32
 * sums. What a row of y gets does not depend on the other rows. All ranges may be empty. */
struct qp_linear_split {
    int64_t m, from, to, into, end;
    int64_t across;        /* tiles of x and of w */
    const uint16_t *x, *w; /* left, right */
    float *y;
    int64_t y_stride;
};
typedef void qp_linear_split_fn(const struct qp_linear_split *l);

qp_split_left_fn qp_split_left_ref;
qp_split_right_fn qp_split_right_ref;
qp_linear_split_fn qp_linear_split_ref;

#endif
