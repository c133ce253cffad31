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

/* A block of c that need not be whole: `rows` by `columns` of it are there. */
struct block {
    int64_t rows, columns;
    float *c;
    int64_t ld;
};

/* The sums of a block that is not whole, by way of `whole`[SIDE, SIDE]. */
static inline void block_load_part(const struct block *b, bool add, float *whole)
{
    for (int64_t i = 0; add && i < b->rows; i++)
        memcpy(whole + i * SIDE, b->c + i * b->ld, (size_t)b->columns * sizeof *whole);
    block_load(add, whole, SIDE);
}

static inline void block_store_part(const struct block *b, float *whole)
{
    block_store(whole, SIDE);
    for (int64_t i = 0; i < b->rows; i++)
        memcpy(b->c + i * b->ld, whole + i * SIDE, (size_t)b->columns * sizeof *whole);
}

static inline bool block_is_whole(const struct block *b)
{
    return b->rows >= SIDE && b->columns >= SIDE;
}

#endif
