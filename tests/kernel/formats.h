/* Number formats of every kind, for comparisons of the backends with the reference. */
#ifndef QUANTPIPE_TESTS_KERNEL_FORMATS_H
#define QUANTPIPE_TESTS_KERNEL_FORMATS_H

#include "kernels/quant.h"

static const struct qp_number_format formats[] = {
    {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_F32},
    {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_BF16},
    {.codes = QP_I8, .bits = 8, .symmetric = false, .scale_dtype = QP_F32},
    {.codes = QP_I8, .bits = 8, .symmetric = false, .scale_dtype = QP_F16},
    {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16},
    {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F16},
    {.codes = QP_I8, .bits = 4, .symmetric = true, .narrow = true, .scale_dtype = QP_F32},
    {.codes = QP_I8, .bits = 4, .symmetric = false, .scale_dtype = QP_BF16},
    {.codes = QP_I8, .bits = 3, .symmetric = false, .scale_dtype = QP_F32},
    {.codes = QP_I8, .bits = 2, .symmetric = true, .scale_dtype = QP_F32},
    {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E4M3, .global = 300},
    {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_CEIL},
    {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32},
    {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_BF16},
    {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_FLOOR},
    {.codes = QP_F8_E5M2, .bits = 8, .symmetric = true, .scale_dtype = QP_F16},
    {.codes = QP_F8_E5M2, .bits = 8, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_EVEN},
    {.codes = QP_F6_E2M3, .bits = 6, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_CEIL},
    {.codes = QP_F6_E3M2, .bits = 6, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_FLOOR},
    {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_EVEN},
    {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E4M3, .global = 12345.678f},
    {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16},
};

#endif
