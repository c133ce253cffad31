#include <string.h>

#include "kernels/cpu/vector/vector.h"

/* Little-endian words are bytes in order: two 4-bit elements a byte, one of 8 bits. */
static void pack4(int64_t count, const int8_t *restrict codes, uint8_t *restrict out)
{
    for (int64_t i = 0; i < count / 2; i++)
        out[i] = (uint8_t)((codes[2 * i] + 8) | (codes[2 * i + 1] + 8) << 4);
    if (count % 2 != 0)
        out[count / 2] = (uint8_t)(codes[count - 1] + 8);
}

static void unpack4(int64_t count, const uint8_t *restrict in, int8_t *restrict codes)
{
    for (int64_t i = 0; i < count / 2; i++) {
        codes[2 * i] = (int8_t)((in[i] & 15) - 8);
        codes[2 * i + 1] = (int8_t)((in[i] >> 4) - 8);
    }
    if (count % 2 != 0)
        codes[count - 1] = (int8_t)((in[count / 2] & 15) - 8);
}

static void flip8(int64_t count, const uint8_t *restrict in, uint8_t *restrict out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = in[i] ^ 0x80; /* + 128 and - 128 alike */
}

/* Eight bytes with `bits` low bits each, closed up: neighbours move together, then pairs, then halves. */
static uint64_t close_up(int bits, uint64_t u)
{
    u = (u & 0x00ff00ff00ff00ff) | (u & 0xff00ff00ff00ff00) >> (8 - bits);
    u = (u & 0x0000ffff0000ffff) | (u & 0xffff0000ffff0000) >> 2 * (8 - bits);
    return (u & 0x00000000ffffffff) | (u & 0xffffffff00000000) >> 4 * (8 - bits);
}

/* Eight elements of any width fill whole bytes. The bias flips the top bit of a code. */
static void pack_any(int bits, int64_t count, const int8_t *codes, uint8_t *out)
{
    const uint64_t ones = 0x0101010101010101, low = ones * ((1u << bits) - 1), top = ones << (bits - 1);
    int64_t i = 0;

    for (uint64_t u; i + 8 <= count; i += 8, out += bits) {
        memcpy(&u, codes + i, sizeof u);
        u = close_up(bits, (u & low) ^ top);
        memcpy(out, &u, (size_t)bits);
    }
    if (i < count) {
        uint64_t u = 0, there = ((uint64_t)1 << 8 * (count - i)) - 1;
        memcpy(&u, codes + i, (size_t)(count - i));
        u = close_up(bits, ((u & low) ^ top) & there);
        memcpy(out, &u, (size_t)(((count - i) * bits + 7) / 8));
    }
}

static void unpack_any(int bits, int64_t count, const uint8_t *in, int8_t *codes)
{
    for (int64_t i = 0; i < count; i += 8, in += bits) {
        int64_t n = count - i < 8 ? count - i : 8;
        uint64_t u = 0;
        memcpy(&u, in, (size_t)((n * bits + 7) / 8));
        for (int64_t j = 0; j < n; j++)
            codes[i + j] = (int8_t)((int)(u >> (j * bits) & ((1u << bits) - 1)) - (1 << (bits - 1)));
    }
}

void QP_NAME(qp_pack)(int bits, int64_t rows, int64_t cols, const int8_t *codes, int32_t *words)
{
    int64_t width = qp_packed_words(bits, cols), used = (cols * bits + 7) / 8;

#pragma omp parallel for if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        const int8_t *in = codes + r * cols;
        uint8_t *out = (uint8_t *)(words + r * width);
        if (bits == 4)
            pack4(cols, in, out);
        else if (bits == 8)
            flip8(cols, (const uint8_t *)in, out);
        else
            pack_any(bits, cols, in, out);
        memset(out + used, 0, (size_t)(width * 4 - used));
    }
}

void QP_NAME(qp_unpack)(int bits, int64_t rows, int64_t cols, const int32_t *words, int8_t *codes)
{
    int64_t width = qp_packed_words(bits, cols);

#pragma omp parallel for if (rows * cols >= QP_PARALLEL_ELEMENTS)
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t *in = (const uint8_t *)(words + r * width);
        if (bits == 4)
            unpack4(cols, in, codes + r * cols);
        else if (bits == 8)
            flip8(cols, in, (uint8_t *)(codes + r * cols));
        else
            unpack_any(bits, cols, in, codes + r * cols);
    }
}
