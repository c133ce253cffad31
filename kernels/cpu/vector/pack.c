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

/* Eight elements of any width fill whole bytes. */
static void pack_any(int bits, int64_t count, const int8_t *codes, uint8_t *out)
{
    for (int64_t i = 0; i < count; i += 8, out += bits) {
        int64_t n = count - i < 8 ? count - i : 8;
        uint64_t u = 0;
        for (int64_t j = 0; j < n; j++)
            u |= (uint64_t)(codes[i + j] + (1 << (bits - 1))) << (j * bits);
        memcpy(out, &u, (size_t)((n * bits + 7) / 8));
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
