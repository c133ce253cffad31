#include "runner/sizes.h"

int64_t qp_layer_linear_parameters(const struct qp_arch *arch)
{
    int64_t sum = 0;
    for (int i = 0; i < QP_LINEARS; i++) {
        const struct qp_linear_desc *linear = &arch->family->linears[i];
        sum += qp_arch_dim(arch, linear->out) * qp_arch_dim(arch, linear->in);
    }
    return sum;
}

int64_t qp_block_parameters(const struct qp_arch *arch, int64_t index)
{
    if (index == 0)
        return arch->vocab * arch->hidden;
    if (index <= arch->layers)
        return qp_arch_layer_parameters(arch);
    return arch->vocab * arch->hidden + arch->hidden;
}

uint64_t qp_block_bytes(const struct qp_arch *arch, int64_t index)
{
    return (uint64_t)qp_block_parameters(arch, index) * (uint64_t)qp_dtype_bits(arch->dtype) / 8;
}

static uint64_t scales(const struct qp_arch *arch, int64_t group)
{
    int64_t sum = 0;
    for (int i = 0; group >= 0 && i < QP_LINEARS; i++) {
        const struct qp_linear_desc *linear = &arch->family->linears[i];
        int64_t in = qp_arch_dim(arch, linear->in);
        sum += qp_arch_dim(arch, linear->out) * (group > 0 ? (in + group - 1) / group : 1);
    }
    return (uint64_t)(sum * arch->layers);
}

uint64_t qp_model_bytes(const struct qp_arch *arch, int bits, int64_t group, int rest_bits)
{
    uint64_t linears = (uint64_t)(qp_layer_linear_parameters(arch) * arch->layers);
    uint64_t rest = (uint64_t)qp_arch_parameters(arch) - linears;
    return (linears * (uint64_t)bits + rest * (uint64_t)rest_bits) / 8 + 2 * scales(arch, group);
}
