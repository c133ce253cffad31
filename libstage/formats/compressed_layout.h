/* What packing and unpacking have to agree on. Contract: compressed_tensors.h. */
#ifndef QUANTPIPE_FORMATS_COMPRESSED_LAYOUT_H
#define QUANTPIPE_FORMATS_COMPRESSED_LAYOUT_H

#include "libstage/tensor/scheme/scheme.h"

/* The shape of weight_scale of a matrix [rows, cols]; returns the rank. */
int qp_compressed_scale_shape(const struct qp_quant_spec *spec, int64_t rows, int64_t cols, int64_t shape[2]);

/* The dtype of weight_scale: scale_dtype, E8M0 as U8. */
enum qp_dtype qp_compressed_scale_storage(const struct qp_number_format *format);

/* Codes as bits of a byte stream: 4 for E2M1, 6 for E2M3; 0 for those that take a byte. */
int qp_compressed_code_bits(const struct qp_number_format *format);

/* rows of `count` values, each `bits` (4 or 6) wide in the low bits of a byte, into a little-endian bit stream that
 * starts anew in each row, and back. count * bits is a multiple of 8. */
void qp_compressed_pack_bits(int bits, int64_t rows, int64_t count, const uint8_t *codes, uint8_t *packed);
void qp_compressed_unpack_bits(int bits, int64_t rows, int64_t count, const uint8_t *packed, uint8_t *codes);

/* The float32 scales that `count` stored ones mean: those of E4M3 divided by the global scale. */
void qp_compressed_effective_scales(const struct qp_number_format *format, int64_t count, float *scale);

void qp_compressed_transpose_bytes(int64_t rows, int64_t cols, const int8_t *in, int8_t *out);
void qp_compressed_transpose_words(int64_t rows, int64_t cols, const int32_t *in, int32_t *out);

#endif
