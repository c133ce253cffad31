#include "kernels/pack.h"

#include <string.h>

void qp_pack_ref(int bits, int64_t rows, int64_t cols, const int8_t *codes, int32_t *words)
{
    int64_t width = qp_packed_words(bits, cols);

    for (int64_t r = 0; r < rows; r++) {
        uint32_t *out = (uint32_t *)words + r * width;
        memset(out, 0, (size_t)width * sizeof *out);
        for (int64_t i = 0; i < cols; i++) {
            uint64_t u = (uint64_t)(codes[r * cols + i] + (1 << (bits - 1))) << (i * bits % 32);
            out[i * bits / 32] |= (uint32_t)u;
            if (u >> 32 != 0)
                out[i * bits / 32 + 1] |= (uint32_t)(u >> 32);
        }
    }
}

void qp_unpack_ref(int bits, int64_t rows, int64_t cols, const int32_t *words, int8_t *codes)
{
    int64_t width = qp_packed_words(bits, cols);

    for (int64_t r = 0; r < rows; r++) {
        const uint32_t *in = (const uint32_t *)words + r * width;
        for (int64_t i = 0; i < cols; i++) {
            int64_t word = i * bits / 32;
            uint64_t pair = in[word] | (uint64_t)(word + 1 < width ? in[word + 1] : 0) << 32;
            int u = (int)(pair >> (i * bits % 32)) & ((1 << bits) - 1);
            codes[r * cols + i] = (int8_t)(u - (1 << (bits - 1)));
        }
    }
}
