#include "libstage/model/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/formats/compressed_tensors.h"

size_t qp_block_parts(const struct qp_arch *arch, int64_t index, struct qp_part parts[QP_BLOCK_PARTS_MAX])
{
    if (index == 0) {
        parts[0] = (struct qp_part){.kind = QP_PART_EMBEDDING};
        return 1;
    }
    if (index == arch->layers + 1) {
        parts[0] = (struct qp_part){.kind = QP_PART_FINAL_NORM};
        parts[1] = (struct qp_part){.kind = arch->tied ? QP_PART_EMBEDDING : QP_PART_HEAD};
        return 2;
    }
    size_t count = 0;
    for (int n = 0; n < QP_NORMS; n++)
        parts[count++] = (struct qp_part){QP_PART_NORM, index - 1, n, false};
    for (int l = 0; l < QP_LINEARS; l++) {
        parts[count++] = (struct qp_part){QP_PART_LINEAR, index - 1, l, false};
        if (qp_arch_has_bias(arch, l))
            parts[count++] = (struct qp_part){QP_PART_LINEAR, index - 1, l, true};
    }
    return count;
}

const char *qp_part_module(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size)
{
    const struct qp_family *f = arch->family;
    switch (part->kind) {
    case QP_PART_EMBEDDING:
        snprintf(text, size, "%s", f->embedding);
        break;
    case QP_PART_FINAL_NORM:
        snprintf(text, size, "%s", f->final_norm);
        break;
    case QP_PART_HEAD:
        snprintf(text, size, "%s", f->head);
        break;
    case QP_PART_NORM:
        qp_layer_name(arch, part->layer, f->norms[part->index].module, text, size);
        break;
    case QP_PART_LINEAR:
        qp_module_name(arch, part->layer, part->index, text, size);
        break;
    }
    return text;
}

const char *qp_part_name(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size)
{
    size_t at = strlen(qp_part_module(arch, part, text, size));
    snprintf(text + at, size - at, part->bias ? ".bias" : ".weight");
    return text;
}

const char *qp_part_gguf_name(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size)
{
    /* llama.cpp names what is outside of the blocks alike in all architectures (gguf-py, constants.py). */
    const char *module = "";
    switch (part->kind) {
    case QP_PART_EMBEDDING:
        snprintf(text, size, "token_embd.weight");
        return text;
    case QP_PART_FINAL_NORM:
        snprintf(text, size, "output_norm.weight");
        return text;
    case QP_PART_HEAD:
        snprintf(text, size, "output.weight");
        return text;
    case QP_PART_NORM:
        module = arch->family->norms[part->index].gguf;
        break;
    case QP_PART_LINEAR:
        module = arch->family->linears[part->index].gguf;
        break;
    }
    snprintf(text, size, "blk.%lld.%s.%s", (long long)part->layer, module, part->bias ? "bias" : "weight");
    return text;
}

int qp_part_shape(const struct qp_arch *arch, const struct qp_part *part, int64_t shape[2])
{
    shape[1] = arch->hidden;
    switch (part->kind) {
    case QP_PART_EMBEDDING:
    case QP_PART_HEAD:
        shape[0] = arch->vocab;
        return 2;
    case QP_PART_FINAL_NORM:
    case QP_PART_NORM:
        shape[0] = arch->hidden;
        return 1;
    case QP_PART_LINEAR:
        shape[0] = qp_arch_dim(arch, arch->family->linears[part->index].out);
        shape[1] = qp_arch_dim(arch, arch->family->linears[part->index].in);
        return part->bias ? 1 : 2;
    }
    return 0;
}

/* The decoder layer that a name belongs to, -1 for none: the number where the block's format has its %d. */
static int64_t layer_of(const struct qp_arch *arch, const char *name)
{
    size_t prefix = strcspn(arch->family->block, "%");
    if (strncmp(name, arch->family->block, prefix) != 0 || name[prefix] < '0' || name[prefix] > '9')
        return -1;
    long long layer = strtoll(name + prefix, NULL, 10);
    return layer < arch->layers ? layer : -1;
}

bool qp_part_find(const struct qp_arch *arch, const char *name, struct qp_part *out)
{
    char text[256];
    struct qp_part parts[QP_BLOCK_PARTS_MAX];
    int64_t layer = layer_of(arch, name);
    int64_t blocks[] = {0, layer + 1, arch->layers + 1};
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
        size_t count = qp_block_parts(arch, blocks[b], parts);
        for (size_t i = 0; i < count; i++)
            if (strcmp(qp_part_name(arch, &parts[i], text, sizeof text), name) == 0) {
                *out = parts[i];
                return true;
            }
    }
    return false;
}

/* A linear has a few tensors, a scale of its input and a bias, a layer its norms and scales of keys and values;
 * embedding, final norm and head are three more. */
size_t qp_quantized_parts_most(const struct qp_arch *arch)
{
    return (size_t)arch->layers * (QP_LINEARS * (QP_COMPRESSED_MAX + 2) + QP_NORMS + 2) + 3;
}
