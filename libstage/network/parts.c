#include "libstage/network/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/formats/compressed_tensors.h"
#include "libstage/network/families/family.h"

/* What the two ends consist of, in order. */
enum { END_PARTS = 3 };
static const enum qp_part_kind ends[2][END_PARTS] = {{QP_PART_EMBEDDING, QP_PART_POSITIONS, QP_PART_PROJECT_IN},
                                                     {QP_PART_FINAL_NORM, QP_PART_PROJECT_OUT, QP_PART_HEAD}};

static bool has_end(const struct qp_arch *arch, enum qp_part_kind kind)
{
    return kind == QP_PART_POSITIONS                                   ? arch->positions != NULL
           : kind == QP_PART_PROJECT_IN || kind == QP_PART_PROJECT_OUT ? arch->project_in != NULL
           : kind == QP_PART_FINAL_NORM                                ? arch->output_norm.width > 0
                                                                       : true;
}

/* The first one there is from `i` on. */
static bool end_from(const struct qp_arch *arch, int64_t index, int i, struct qp_part *part)
{
    const enum qp_part_kind *kinds = ends[index > 0];
    while (i < END_PARTS && !has_end(arch, kinds[i]))
        i++;
    if (i == END_PARTS)
        return false;
    *part =
        (struct qp_part){kinds[i] == QP_PART_HEAD && arch->tied ? QP_PART_EMBEDDING : kinds[i], index - 1, 0, false};
    return true;
}

bool qp_first_part(const struct qp_arch *arch, int64_t index, struct qp_part *part)
{
    if (index == 0 || index == arch->layers + 1)
        return end_from(arch, index, 0, part);
    *part = (struct qp_part){QP_PART_NORM, index - 1, 0, false};
    return qp_layer_type(arch, part->layer)->norm_count > 0 || qp_next_part(arch, index, part);
}

static bool next_end(const struct qp_arch *arch, int64_t index, struct qp_part *part)
{
    const enum qp_part_kind *kinds = ends[index > 0];
    int i = 0;
    if (part->kind == QP_PART_FINAL_NORM && arch->output_norm.bias && !part->bias) {
        part->bias = true;
        return true;
    }
    while (i < END_PARTS - 1 && kinds[i] != part->kind) /* a tied head is not in the list: it is the last */
        i++;
    return end_from(arch, index, i + 1, part);
}

static bool has_bias(const struct qp_layer_type *type, const struct qp_part *part)
{
    if (part->kind == QP_PART_NORM)
        return part->index < type->norm_count && type->norms[part->index].bias;
    return part->kind == QP_PART_LINEAR && type->linears[part->index].bias;
}

bool qp_next_part(const struct qp_arch *arch, int64_t index, struct qp_part *part)
{
    if (index == 0 || index == arch->layers + 1)
        return next_end(arch, index, part);
    const struct qp_layer_type *type = qp_layer_type(arch, part->layer);
    if (has_bias(type, part) && !part->bias) {
        part->bias = true;
        return true;
    }
    part->bias = false;
    part->index++;
    if (part->kind == QP_PART_NORM && part->index >= type->norm_count)
        *part = (struct qp_part){.kind = QP_PART_LINEAR, .layer = part->layer};
    if (part->kind == QP_PART_LINEAR && part->index >= type->linear_count)
        *part = (struct qp_part){.kind = QP_PART_PARAMETER, .layer = part->layer};
    return part->kind != QP_PART_PARAMETER || part->index < type->parameter_count;
}

const char *qp_part_module(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size)
{
    switch (part->kind) {
    case QP_PART_EMBEDDING:
        snprintf(text, size, "%s", arch->embedding);
        break;
    case QP_PART_FINAL_NORM:
        snprintf(text, size, "%s", arch->final_norm);
        break;
    case QP_PART_HEAD:
        snprintf(text, size, "%s", arch->head);
        break;
    case QP_PART_POSITIONS:
        snprintf(text, size, "%s", arch->positions);
        break;
    case QP_PART_PROJECT_IN:
        snprintf(text, size, "%s", arch->project_in);
        break;
    case QP_PART_PROJECT_OUT:
        snprintf(text, size, "%s", arch->project_out);
        break;
    case QP_PART_NORM:
        qp_layer_name(arch, part->layer, qp_layer_type(arch, part->layer)->norms[part->index].module, text, size);
        break;
    case QP_PART_LINEAR:
        qp_module_name(arch, part->layer, part->index, text, size);
        break;
    case QP_PART_PARAMETER:
        qp_layer_name(arch, part->layer, qp_layer_type(arch, part->layer)->parameters[part->index].name, text, size);
        break;
    }
    return text;
}

const char *qp_part_name(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size)
{
    size_t at = strlen(qp_part_module(arch, part, text, size));
    if (part->kind != QP_PART_PARAMETER)
        snprintf(text + at, size - at, part->bias ? ".bias" : ".weight");
    return text;
}

const char *qp_stored_name(const struct qp_arch *arch, const char *name, char *text, size_t size)
{
    for (int i = 0; arch->wrapper && i < 2; i++) {
        const char *const *start = arch->wrapper->stored[i];
        size_t length = strlen(start[0]);
        if (strncmp(name, start[0], length) == 0) {
            snprintf(text, size, "%s%s", start[1], name + length);
            return text;
        }
    }
    return name;
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
        snprintf(text, size, "output_norm.%s", part->bias ? "bias" : "weight");
        return text;
    case QP_PART_HEAD:
        snprintf(text, size, "output.weight");
        return text;
    case QP_PART_NORM:
        module = qp_layer_type(arch, part->layer)->norms[part->index].gguf;
        break;
    case QP_PART_LINEAR:
        module = qp_layer_type(arch, part->layer)->linears[part->index].gguf;
        break;
    case QP_PART_POSITIONS:
        snprintf(text, size, "position_embd.weight");
        return text;
    case QP_PART_PROJECT_IN: /* of no family that is read from GGUF */
    case QP_PART_PROJECT_OUT:
    case QP_PART_PARAMETER:
        break;
    }
    snprintf(text, size, "blk.%lld.%s.%s", (long long)part->layer, module, part->bias ? "bias" : "weight");
    return text;
}

int qp_part_shape(const struct qp_arch *arch, const struct qp_part *part, int64_t shape[2])
{
    const struct qp_linear *linear;
    shape[0] = arch->vocab;
    shape[1] = arch->embed_width;
    switch (part->kind) {
    case QP_PART_EMBEDDING:
    case QP_PART_HEAD:
        return 2;
    case QP_PART_POSITIONS:
        shape[0] = arch->max_length + arch->position_offset;
        shape[1] = arch->hidden;
        return 2;
    case QP_PART_PROJECT_IN:
        shape[0] = arch->hidden;
        return 2;
    case QP_PART_PROJECT_OUT:
        shape[0] = arch->embed_width;
        shape[1] = arch->hidden;
        return 2;
    case QP_PART_FINAL_NORM:
        shape[0] = arch->output_norm.width;
        return 1;
    case QP_PART_NORM:
        shape[0] = qp_layer_type(arch, part->layer)->norms[part->index].width;
        return 1;
    case QP_PART_LINEAR:
        linear = &qp_layer_type(arch, part->layer)->linears[part->index];
        shape[0] = linear->out;
        shape[1] = linear->in;
        return part->bias ? 1 : 2;
    case QP_PART_PARAMETER:
        shape[0] = qp_layer_type(arch, part->layer)->parameters[part->index].width;
        return qp_layer_type(arch, part->layer)->parameters[part->index].rank;
    }
    return 0;
}

/* The decoder layer that a name belongs to, -1 for none: the number where the block's format has its %d. */
static int64_t layer_of(const struct qp_arch *arch, const char *name)
{
    size_t prefix = strcspn(arch->block, "%");
    if (strncmp(name, arch->block, prefix) != 0 || name[prefix] < '0' || name[prefix] > '9')
        return -1;
    long long layer = strtoll(name + prefix, NULL, 10);
    return layer < arch->layers ? layer : -1;
}

bool qp_part_find(const struct qp_arch *arch, const char *name, struct qp_part *out)
{
    char text[256];
    int64_t layer = layer_of(arch, name);
    int64_t blocks[] = {0, layer + 1, arch->layers + 1};
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++)
        QP_EACH_PART(*out, arch, blocks[b])
    if (strcmp(qp_part_name(arch, out, text, sizeof text), name) == 0)
        return true;
    return false;
}

/* A linear has a few tensors, a scale of its input and a bias, a layer its norms and scales of keys and values;
 * what is outside of the layers is a few more. */
size_t qp_quantized_parts_most(const struct qp_arch *arch)
{
    size_t sum = 8;
    for (int64_t i = 0; i < arch->layers; i++) {
        const struct qp_layer_type *type = qp_layer_type(arch, i);
        sum += (size_t)type->linear_count * (QP_COMPRESSED_MAX + 2) + 2 * (size_t)type->norm_count +
               (size_t)type->parameter_count + 2;
    }
    return sum;
}
