/* The two products of attention, q kᵀ and p v, on one tile: [QUERIES, k] by [k, n], n a multiple of LANES. Included
 * once by a file that has defined what its numbers are: element                 of a and b as they lie in memory
 *   operand                 LANES of them in a register
 *   load_operand(p)         LANES from p
 *   repeat_operand(p)       the one at p, LANES times
 *   multiply_add(sum, x, y) sum + x y, float32 */
#ifndef QUANTPIPE_KERNELS_CPU_ATTENTION_BLOCK_H
#define QUANTPIPE_KERNELS_CPU_ATTENTION_BLOCK_H

enum { ROWS = 6, WIDTH = LANES == 16 ? 4 : 2 };

/* c[ROWS, width vectors] = keep * c + a b over k; keep NULL: c is not read. */
static inline __attribute__((always_inline)) void block(int width, int64_t k, const element *a, int64_t lda,
                                                        const element *b, int64_t ldb, const float *keep, float *c,
                                                        int64_t ldc)
{
    vf sum[ROWS][WIDTH];

#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++)
            sum[i][j] = keep == NULL ? (vf){0} : (vf)(v_load(c + i * ldc + j * LANES) * v_set(keep[i]));
    for (int64_t l = 0; l < k; l++) {
        operand y[WIDTH];
#pragma GCC unroll 4
        for (int j = 0; j < width; j++)
            y[j] = load_operand(b + l * ldb + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            operand x = repeat_operand(a + i * lda + l);
#pragma GCC unroll 4
            for (int j = 0; j < width; j++)
                sum[i][j] = multiply_add(sum[i][j], x, y[j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < width; j++)
            v_store(c + i * ldc + j * LANES, sum[i][j]);
}

/* Not inlined: with the constants of its surroundings the sums would not fit the registers. */
static __attribute__((noinline)) void product(int64_t n, int64_t k, const element *a, int64_t lda, const element *b,
                                              const float *keep, float *c)
{
    int64_t j = 0;

    for (; j + WIDTH * LANES <= n; j += WIDTH * LANES)
        for (int64_t i = 0; i < QUERIES; i += ROWS)
            block(WIDTH, k, a + i * lda, lda, b + j, n, keep == NULL ? NULL : keep + i, c + i * n + j, n);
    for (; j < n; j += LANES)
        for (int64_t i = 0; i < QUERIES; i += ROWS)
            block(1, k, a + i * lda, lda, b + j, n, keep == NULL ? NULL : keep + i, c + i * n + j, n);
}

#endif
