#include "libstage/model/arch.h"

#include <stdio.h>

#include "libstage/model/family_llama.h"

const struct qp_family *const *qp_families(void)
{
    static const struct qp_family *const families[] = {&qp_family_llama, &qp_family_mistral, NULL};
    return families;
}

int64_t qp_arch_dim(const struct qp_arch *arch, enum qp_dim dim)
{
    switch (dim) {
    case QP_DIM_HIDDEN:
        return arch->hidden;
    case QP_DIM_FFN:
        return arch->ffn;
    case QP_DIM_Q:
        return (int64_t)arch->heads * arch->head_dim;
    case QP_DIM_KV:
        return (int64_t)arch->kv_heads * arch->head_dim;
    }
    return 0;
}

bool qp_arch_has_bias(const struct qp_arch *arch, enum qp_linear linear)
{
    return linear <= QP_O ? arch->attn_bias : arch->mlp_bias;
}

int64_t qp_arch_layer_parameters(const struct qp_arch *arch)
{
    int64_t layer = QP_NORMS * arch->hidden;
    for (int l = 0; l < QP_LINEARS; l++) {
        const struct qp_linear_desc *d = &arch->family->linears[l];
        int64_t out = qp_arch_dim(arch, d->out);
        layer += out * qp_arch_dim(arch, d->in) + (qp_arch_has_bias(arch, l) ? out : 0);
    }
    return layer;
}

int64_t qp_arch_parameters(const struct qp_arch *arch)
{
    return arch->layers * qp_arch_layer_parameters(arch) + arch->hidden +
           arch->vocab * arch->hidden * (arch->tied ? 1 : 2);
}

const char *qp_layer_name(const struct qp_arch *arch, int64_t layer, const char *name, char *text, size_t size)
{
    int n = snprintf(text, size, arch->family->block, (int)layer);
    if (n >= 0 && (size_t)n < size)
        snprintf(text + n, size - (size_t)n, ".%s", name);
    return text;
}

const char *qp_module_name(const struct qp_arch *arch, int64_t layer, enum qp_linear linear, char *text, size_t size)
{
    return qp_layer_name(arch, layer, arch->family->linears[linear].module, text, size);
}
