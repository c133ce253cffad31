/* Element types of tensors: names as safetensors writes them, sizes in bits. */
#ifndef QUANTPIPE_KERNELS_DTYPE_H
#define QUANTPIPE_KERNELS_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

enum qp_dtype {
    QP_DTYPE_NONE = 0,
    QP_F32,
    QP_F16,
    QP_BF16,
    QP_F8_E4M3, /* 1.4.3, bias 7, max 448, no infinity, NaN 0x7f and 0xff */
    QP_F8_E5M2, /* 1.5.2, bias 15, max 57344, IEEE-like */
    QP_I8,
    QP_I16,
    QP_I32,
    QP_I64,
    QP_U8,
    QP_F64,
    QP_BOOL,
    QP_I4,      /* two's complement nibbles, low nibble first; the number of elements is even */
    QP_F4_E2M1, /* 1.2.1, bias 1, max 6, no infinity, no NaN; two a byte, low nibble first */
    QP_F6_E2M3, /* 1.2.3, bias 1, max 7.5, no infinity, no NaN */
    QP_F6_E3M2, /* 1.3.2, bias 3, max 28, no infinity, no NaN */
    QP_F8_E8M0, /* a power of two 2^(code - 127); NaN 0xff; no zero, no sign */
    QP_DTYPE_COUNT
};

/* "F32", "BF16", ...; "?" for a value outside the enum. Static storage. */
const char *qp_dtype_name(enum qp_dtype dtype);

/* The dtype of a name, QP_DTYPE_NONE when unknown. */
enum qp_dtype qp_dtype_by_name(const char *name);

/* Bits an element takes; 0 for a value outside the enum. */
int qp_dtype_bits(enum qp_dtype dtype);

/* Whether elements are F32, F16, BF16 or F64: what a weight may be before quantization. */
bool qp_dtype_is_plain_float(enum qp_dtype dtype);

#endif
