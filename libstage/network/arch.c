#include "libstage/network/arch.h"

#include <stdio.h>

#include "libstage/network/families/family.h"

/* In the order in which config.json and GGUF are matched: of families with one GGUF name the first is taken. */
#define FAMILIES(family)                                                                                             \
    family(llama) family(mistral) family(qwen2) family(qwen3) family(seed_oss) family(phi3) family(glm) family(glm4) \
        family(gemma) family(gemma2) family(gemma3) family(granite) family(starcoder2) family(olmo2) family(olmo3)   \
            family(exaone4) family(cohere2) family(smollm3) family(hunyuan) family(ernie4_5) family(arcee)           \
                family(ministral3) family(apertus) family(opt)
#define DECLARE(name) extern const struct qp_family qp_family_##name;
#define LIST(name) &qp_family_##name,

FAMILIES(DECLARE)

const struct qp_family *const *qp_families(void)
{
    static const struct qp_family *const families[] = {FAMILIES(LIST) NULL};
    return families;
}

int64_t qp_layer_weights(const struct qp_layer_type *type)
{
    int64_t sum = 0;
    for (int l = 0; l < type->linear_count; l++)
        sum += type->linears[l].out * type->linears[l].in;
    return sum;
}

int64_t qp_layer_parameters(const struct qp_layer_type *type)
{
    int64_t sum = qp_layer_weights(type);
    for (int l = 0; l < type->linear_count; l++)
        sum += type->linears[l].bias ? type->linears[l].out : 0;
    for (int p = 0; p < type->parameter_count; p++)
        sum += type->parameters[p].width;
    for (int n = 0; n < type->norm_count; n++)
        sum += type->norms[n].width * (type->norms[n].bias ? 2 : 1);
    return sum;
}

int64_t qp_block_parameters(const struct qp_arch *arch, int64_t index)
{
    int64_t matrix = arch->vocab * arch->embed_width, projection = arch->project_in ? arch->embed_width : 0;
    if (index == 0)
        return matrix + (projection + (arch->positions ? arch->max_length + arch->position_offset : 0)) * arch->hidden;
    if (index <= arch->layers)
        return qp_layer_parameters(qp_layer_type(arch, index - 1));
    return matrix + projection * arch->hidden + arch->output_norm.width * (arch->output_norm.bias ? 2 : 1);
}

int64_t qp_arch_parameters(const struct qp_arch *arch)
{
    int64_t sum = qp_block_parameters(arch, 0) + qp_block_parameters(arch, arch->layers + 1) -
                  (arch->tied ? arch->vocab * arch->embed_width : 0);
    for (int64_t i = 0; i < arch->layers; i++)
        sum += qp_layer_parameters(qp_layer_type(arch, i));
    return sum;
}

int qp_arch_most_linears(const struct qp_arch *arch)
{
    int most = 0;
    for (int64_t i = 0; i < arch->layers; i++)
        most = qp_layer_type(arch, i)->linear_count > most ? qp_layer_type(arch, i)->linear_count : most;
    return most;
}

int qp_arch_most_sites(const struct qp_arch *arch)
{
    int most = 0;
    for (int64_t i = 0; i < arch->layers; i++)
        most = qp_layer_type(arch, i)->site_count > most ? qp_layer_type(arch, i)->site_count : most;
    return most;
}

const char *qp_layer_name(const struct qp_arch *arch, int64_t layer, const char *name, char *text, size_t size)
{
    int n = snprintf(text, size, arch->block, (int)layer);
    if (n >= 0 && (size_t)n < size)
        snprintf(text + n, size - (size_t)n, ".%s", name);
    return text;
}

const char *qp_module_name(const struct qp_arch *arch, int64_t layer, int linear, char *text, size_t size)
{
    return qp_layer_name(arch, layer, qp_layer_type(arch, layer)->linears[linear].module, text, size);
}
