#include "runner/pipeline/sizes.h"

int64_t qp_linear_parameters(const struct qp_arch *arch)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < arch->layers; i++)
        sum += qp_layer_weights(qp_layer_type(arch, i));
    return sum;
}

uint64_t qp_block_bytes(const struct qp_arch *arch, int64_t index)
{
    return (uint64_t)qp_block_parameters(arch, index) * (uint64_t)qp_dtype_bits(arch->dtype) / 8;
}

static int64_t layer_scales(const struct qp_layer_type *type, int64_t group)
{
    int64_t sum = 0;
    for (int i = 0; i < type->linear_count; i++)
        sum += type->linears[i].out * (group > 0 ? (type->linears[i].in + group - 1) / group : 1);
    return sum;
}

static uint64_t scales(const struct qp_arch *arch, int64_t group)
{
    int64_t sum = 0;
    for (int64_t i = 0; group >= 0 && i < arch->layers; i++)
        sum += layer_scales(qp_layer_type(arch, i), group);
    return (uint64_t)sum;
}

uint64_t qp_model_bytes(const struct qp_arch *arch, int bits, int64_t group, int rest_bits)
{
    uint64_t linears = (uint64_t)qp_linear_parameters(arch);
    uint64_t rest = (uint64_t)qp_arch_parameters(arch) - linears;
    return (linears * (uint64_t)bits + rest * (uint64_t)rest_bits) / 8 + 2 * scales(arch, group);
}
