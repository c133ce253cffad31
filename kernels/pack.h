/* Dense packing of small integers into 32-bit words, as compressed-tensors stores them. */
#ifndef QUANTPIPE_KERNELS_PACK_H
#define QUANTPIPE_KERNELS_PACK_H

#include <stdint.h>

/* pack: codes[rows, cols] (signed, `bits` bits, 1 to 8) -> words[rows, ceil(cols * bits / 32)]: u = code + 2^(bits-1);
 * element i of a row takes bits [i*bits, (i+1)*bits) of a little-endian bit stream; the tail is 0 bits.
 * unpack: back, the tail ignored. Exact. */
typedef void qp_pack_fn(int bits, int64_t rows, int64_t cols, const int8_t *codes, int32_t *words);
typedef void qp_unpack_fn(int bits, int64_t rows, int64_t cols, const int32_t *words, int8_t *codes);

static inline int64_t qp_packed_words(int bits, int64_t cols)
{
    return (cols * bits + 31) / 32;
}

qp_pack_fn qp_pack_ref;
qp_unpack_fn qp_unpack_ref;

#endif
