#include "libstage/formats/gguf_blocks.h"

#include "kernels/codec.h"
#include "kernels/kernels.h"

/* Layouts: ggml-common.h (block_q4_0 ...); formulas: dequantize_row_* in ggml-quants.c. All numbers little-endian. */

#define BLOCK 32
#define SUPER 256

static float half(const uint8_t *p)
{
    return qp_f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t word(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* {half d; int8 q[32]}: q * d */
static void q8_0(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 34, out += BLOCK) {
        const float d = half(b);
        for (int i = 0; i < BLOCK; i++)
            out[i] = (float)(int8_t)b[2 + i] * d;
    }
}

/* {half d; nibbles q[32]}: (q - 8) * d; element i in the low, i + 16 in the high nibble of byte i */
static void q4_0(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 18, out += BLOCK) {
        const float d = half(b);
        for (int i = 0; i < BLOCK / 2; i++) {
            out[i] = (float)((b[2 + i] & 15) - 8) * d;
            out[i + BLOCK / 2] = (float)((b[2 + i] >> 4) - 8) * d;
        }
    }
}

/* {half d, m; nibbles q[32]}: q * d + m */
static void q4_1(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 20, out += BLOCK) {
        const float d = half(b), m = half(b + 2);
        for (int i = 0; i < BLOCK / 2; i++) {
            out[i] = (float)(b[4 + i] & 15) * d + m;
            out[i + BLOCK / 2] = (float)(b[4 + i] >> 4) * d + m;
        }
    }
}

/* {half d; 32 fifth bits; nibbles q[32]}: (q - 16) * d */
static void q5_0(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 22, out += BLOCK) {
        const float d = half(b);
        const uint32_t high = word(b + 2);
        for (int i = 0; i < BLOCK / 2; i++) {
            const int low = (b[6 + i] & 15) | (int)(high >> i & 1) << 4;
            const int up = b[6 + i] >> 4 | (int)(high >> (i + BLOCK / 2) & 1) << 4;
            out[i] = (float)(low - 16) * d;
            out[i + BLOCK / 2] = (float)(up - 16) * d;
        }
    }
}

/* {half d, m; 32 fifth bits; nibbles q[32]}: q * d + m */
static void q5_1(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 24, out += BLOCK) {
        const float d = half(b), m = half(b + 2);
        const uint32_t high = word(b + 4);
        for (int i = 0; i < BLOCK / 2; i++) {
            const int low = (b[8 + i] & 15) | (int)(high >> i & 1) << 4;
            const int up = b[8 + i] >> 4 | (int)(high >> (i + BLOCK / 2) & 1) << 4;
            out[i] = (float)low * d + m;
            out[i + BLOCK / 2] = (float)up * d + m;
        }
    }
}

/* Six-bit scale and minimum of the j-th of eight sub-blocks (get_scale_min_k4). */
static void scale_and_minimum(int j, const uint8_t *p, int *scale, int *minimum)
{
    if (j < 4) {
        *scale = p[j] & 63;
        *minimum = p[j + 4] & 63;
    } else {
        *scale = (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
        *minimum = p[j + 4] >> 4 | (p[j] >> 6) << 4;
    }
}

/* {half d, dmin; scales and minima[12]; nibbles q[256]}: (d * scale) * q - dmin * minimum, in sub-blocks of 32; two of
 * them share 32 bytes, the first in the low nibbles */
static void q4_k(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 144, out += SUPER) {
        const float d = half(b), dmin = half(b + 2);
        for (int j = 0; j < 8; j++) {
            const uint8_t *q = b + 16 + j / 2 * BLOCK;
            int scale, minimum;
            scale_and_minimum(j, b + 4, &scale, &minimum);
            const float s = d * (float)scale, m = dmin * (float)minimum;
            for (int i = 0; i < BLOCK; i++)
                out[j * BLOCK + i] = s * (float)(j % 2 ? q[i] >> 4 : q[i] & 15) - m;
        }
    }
}

/* {low nibbles[128]; high bit pairs[64]; int8 scales[16]; half d}: (d * scale) * (q - 32), a scale for 16 elements. In
 * each half of 128: quarter k of 32 takes nibbles of bytes 32 (k % 2) up, the low ones for k < 2, and bit pair k. */
static void q6_k(const uint8_t *b, int64_t count, float *out)
{
    for (; count > 0; count--, b += 210, out += SUPER) {
        const float d = half(b + 208);
        for (int k = 0; k < 8; k++) {
            const uint8_t *low = b + k / 4 * 64 + k % 2 * BLOCK, *high = b + 128 + k / 4 * BLOCK;
            const int shift = k % 4 / 2 * 4, pair = k % 4 * 2;
            for (int i = 0; i < BLOCK; i++) {
                const int q = (low[i] >> shift & 15) | (high[i] >> pair & 3) << 4;
                out[k * BLOCK + i] = d * (float)(int8_t)b[192 + k * 2 + i / 16] * (float)(q - 32);
            }
        }
    }
}

static const struct qp_gguf_block blocks[] = {
    [QP_GGUF_F32] = {"F32", 1, 4, NULL},         [QP_GGUF_F16] = {"F16", 1, 2, NULL},
    [QP_GGUF_Q4_0] = {"Q4_0", BLOCK, 18, q4_0},  [QP_GGUF_Q4_1] = {"Q4_1", BLOCK, 20, q4_1},
    [QP_GGUF_Q5_0] = {"Q5_0", BLOCK, 22, q5_0},  [QP_GGUF_Q5_1] = {"Q5_1", BLOCK, 24, q5_1},
    [QP_GGUF_Q8_0] = {"Q8_0", BLOCK, 34, q8_0},  [QP_GGUF_Q4_K] = {"Q4_K", SUPER, 144, q4_k},
    [QP_GGUF_Q6_K] = {"Q6_K", SUPER, 210, q6_k}, [QP_GGUF_BF16] = {"BF16", 1, 2, NULL},
};

const struct qp_gguf_block *qp_gguf_block(enum qp_gguf_type type)
{
    if ((int)type < 0 || (size_t)type >= sizeof blocks / sizeof *blocks || !blocks[type].name)
        return NULL;
    return &blocks[type];
}

const char *qp_gguf_type_name(enum qp_gguf_type type)
{
    const struct qp_gguf_block *block = qp_gguf_block(type);
    return block ? block->name : "?";
}

void qp_gguf_rows(const struct qp_gguf *file, const struct qp_gguf_tensor *tensor, int64_t row, int64_t rows,
                  float *out)
{
    const struct qp_gguf_block *block = qp_gguf_block(tensor->type);
    const int64_t cols = tensor->rank > 0 ? tensor->shape[tensor->rank - 1] : 1;
    const int64_t first = row * (cols / block->elements), count = rows * (cols / block->elements);
    const uint8_t *data = (const uint8_t *)file->storage->base + tensor->offset + first * block->bytes;
    if (block->dequantize) {
        block->dequantize(data, count, out);
        return;
    }
    const enum qp_dtype dtype = tensor->type == QP_GGUF_F32 ? QP_F32 : tensor->type == QP_GGUF_F16 ? QP_F16 : QP_BF16;
    qp_kernels_open("cpu")->to_f32(dtype, count, data, out);
}
