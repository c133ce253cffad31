/* Products of BF16 in the tiles of AMX: C[16, 16] += A[16, 32] B[32, 16] in float32, where a tile has 16 rows of 64
 * bytes and those of B are pairs along the summed dimension. Operands are packed, tile after tile, in panels of SIDE
 * rows of A or columns of B: [depth][2][TILE] numbers, where `depth` counts steps of DEPTH along the summed
 * dimension, each with the tiles of a panel's first and last 16 rows or columns. What is missing is 0. */
#ifndef QUANTPIPE_KERNELS_AMX_TILES_H
#define QUANTPIPE_KERNELS_AMX_TILES_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

enum { ROWS_OF_TILE = 16, DEPTH = 32, TILE = ROWS_OF_TILE * DEPTH, SIDE = 2 * ROWS_OF_TILE, STEP = 2 * TILE };

/* The compiler does not see that tiles are read from memory: what was written before a product comes before this. */
static inline void tiles_see_memory(void)
{
    __asm__ volatile("" ::: "memory");
}

struct tile_shapes {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64)));

/* The calling thread uses all 8 tiles, each whole, from here to tiles_end, which brings back what was configured
 * before, by a library that remembers it. */
static inline void tiles_begin(struct tile_shapes *before)
{
    struct tile_shapes shapes = {.palette = 1};

    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = 2 * DEPTH;
        shapes.rows[i] = ROWS_OF_TILE;
    }
    _tile_storeconfig(before);
    tiles_see_memory();
    _tile_loadconfig(&shapes);
}

static inline void tiles_end(const struct tile_shapes *before)
{
    _tile_loadconfig(before);
}

/* The sums so far of a block of SIDE by SIDE, in tiles 0 to 3: zeros, or what stands at c; ld: numbers between rows. */
static inline void block_load(bool add, const float *c, int64_t ld)
{
    int64_t stride = ld * (int64_t)sizeof *c;

    tiles_see_memory();
    if (!add) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        return;
    }
    _tile_loadd(0, c, stride);
    _tile_loadd(1, c + ROWS_OF_TILE, stride);
    _tile_loadd(2, c + ROWS_OF_TILE * ld, stride);
    _tile_loadd(3, c + ROWS_OF_TILE * ld + ROWS_OF_TILE, stride);
}

static inline void block_store(float *c, int64_t ld)
{
    int64_t stride = ld * (int64_t)sizeof *c;

    _tile_stored(0, c, stride);
    _tile_stored(1, c + ROWS_OF_TILE, stride);
    _tile_stored(2, c + ROWS_OF_TILE * ld, stride);
    _tile_stored(3, c + ROWS_OF_TILE * ld + ROWS_OF_TILE, stride);
}

/* Adds the product of two panels to the sums. */
static inline void block_add(int64_t depth, const uint16_t *a, const uint16_t *b)
{
    for (int64_t l = 0; l < depth; l++, a += STEP, b += STEP) {
        _tile_loadd(4, a, 2 * DEPTH);
        _tile_loadd(6, b, 2 * DEPTH);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + TILE, 2 * DEPTH);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + TILE, 2 * DEPTH);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* A block of c, of which `rows` by `columns` are there; what is there of one that is not whole is copied to `whole` and
 * back. */
struct block {
    int64_t rows, columns;
    float *c;
    int64_t ld;
    float whole[SIDE * SIDE] __attribute__((aligned(64)));
};

/* Block [i, j] of c[rows, columns], `ld` numbers between rows. */
static inline void block_place(struct block *b, int64_t rows, int64_t columns, float *c, int64_t ld, int64_t i,
                               int64_t j)
{
    int64_t down = rows - i * SIDE, right = columns - j * SIDE;

    b->rows = down < SIDE ? down : SIDE;
    b->columns = right < SIDE ? right : SIDE;
    b->c = c + i * SIDE * ld + j * SIDE;
    b->ld = ld;
}

static inline bool block_is_whole(const struct block *b)
{
    return b->rows == SIDE && b->columns == SIDE;
}

/* The sums so far of a block, in tiles 0 to 3: zeros, or what stands in c. */
static inline void block_open(struct block *b, bool add)
{
    if (block_is_whole(b)) {
        block_load(add, b->c, b->ld);
        return;
    }
    memset(b->whole, 0, sizeof b->whole);
    for (int64_t i = 0; add && i < b->rows; i++)
        memcpy(b->whole + i * SIDE, b->c + i * b->ld, (size_t)b->columns * sizeof *b->whole);
    block_load(add, b->whole, SIDE);
}

/* The sums go back to c. */
static inline void block_close(struct block *b)
{
    if (block_is_whole(b)) {
        block_store(b->c, b->ld);
        return;
    }
    block_store(b->whole, SIDE);
    for (int64_t i = 0; i < b->rows; i++)
        memcpy(b->c + i * b->ld, b->whole + i * SIDE, (size_t)b->columns * sizeof *b->whole);
}

/* All threads together: `add` for blocks [i, j] on and above the diagonal of `panels` by `panels`. A thread takes those
 * of `tall` by `wide` panels. */
static inline void blocks_above_diagonal(int64_t panels, int64_t tall, int64_t wide,
                                         void (*add)(const void *pass, int64_t i, int64_t j), const void *pass)
{
#pragma omp for collapse(2) schedule(dynamic, 1)
    for (int64_t top = 0; top < panels; top += tall)
        for (int64_t left = 0; left < panels; left += wide)
            for (int64_t j = left; j < left + wide && j < panels; j++)
                for (int64_t i = top; i < top + tall && i <= j; i++)
                    add(pass, i, j);
}

#endif
