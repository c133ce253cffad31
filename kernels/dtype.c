#include "kernels/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    int bits;
} table[QP_DTYPE_COUNT] = {
    [QP_F32] = {"F32", 32},        [QP_F16] = {"F16", 16},        [QP_BF16] = {"BF16", 16},
    [QP_F8_E4M3] = {"F8_E4M3", 8}, [QP_I8] = {"I8", 8},           [QP_F8_E5M2] = {"F8_E5M2", 8},
    [QP_I16] = {"I16", 16},        [QP_I32] = {"I32", 32},        [QP_I64] = {"I64", 64},
    [QP_U8] = {"U8", 8},           [QP_F64] = {"F64", 64},        [QP_BOOL] = {"BOOL", 8},
    [QP_I4] = {"I4", 4},           [QP_F4_E2M1] = {"F4", 4},      [QP_F6_E2M3] = {"F6_E2M3", 6},
    [QP_F6_E3M2] = {"F6_E3M2", 6}, [QP_F8_E8M0] = {"F8_E8M0", 8},
};

static bool known(enum qp_dtype dtype)
{
    return (int)dtype > 0 && dtype < QP_DTYPE_COUNT;
}

const char *qp_dtype_name(enum qp_dtype dtype)
{
    return known(dtype) ? table[dtype].name : "?";
}

enum qp_dtype qp_dtype_by_name(const char *name)
{
    for (int i = 1; i < QP_DTYPE_COUNT; i++)
        if (strcmp(table[i].name, name) == 0)
            return (enum qp_dtype)i;
    return QP_DTYPE_NONE;
}

int qp_dtype_bits(enum qp_dtype dtype)
{
    return known(dtype) ? table[dtype].bits : 0;
}

bool qp_dtype_is_plain_float(enum qp_dtype dtype)
{
    return dtype == QP_F32 || dtype == QP_F16 || dtype == QP_BF16 || dtype == QP_F64;
}
