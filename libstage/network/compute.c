#include <string.h>

#include "libstage/network/block.h"

const char *const qp_compute_choices[] = {"auto", "bf16", "fp32", NULL};

enum qp_dtype qp_compute(const char *choice, const struct qp_arch *arch, const struct qp_kernels *kernels)
{
    bool narrow = arch->dtype == QP_BF16 || arch->dtype == QP_F16;
    bool bf16 = strcmp(choice, "auto") == 0 ? narrow && kernels->bf16 : strcmp(choice, "bf16") == 0;
    return bf16 ? QP_BF16 : QP_F32;
}

const char *qp_compute_name(enum qp_dtype compute)
{
    return compute == QP_BF16 ? "bf16" : "fp32";
}

bool qp_multiplies_int8(const struct qp_kernels *kernels, const struct qp_linear_scheme *scheme, int64_t cols)
{
    const struct qp_quant_spec *w = &scheme->weights, *x = &scheme->activations;
    if (!kernels->int8 || !w->enabled || !x->enabled || w->format.codes != QP_I8 || x->format.codes != QP_I8)
        return false;
    int64_t group = qp_spec_group(x, cols);
    return qp_spec_group(w, cols) >= cols && (group == 0 || group >= cols) && cols <= QP_LINEAR_INT8_DEPTH;
}
