#include "libstage/network/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/checkpoint_gguf.h"
#include "libstage/network/checkpoint_gpt2.h"
#include "libstage/network/describe.h"
#include "libstage/network/parts.h"
#include "libstage/tensor/operations.h"

#define CONFIG_LIMIT ((size_t)16 << 20)

struct qp_tensor *qp_checkpoint_find(const struct qp_checkpoint *checkpoint, const char *name)
{
    char stored[256];
    return qp_safetensors_find(checkpoint->safetensors, qp_stored_name(&checkpoint->arch, name, stored, sizeof stored));
}

/* How the matrix of a part is quantized in the checkpoint; NULL: it is not. */
static const struct qp_linear_scheme *stored_scheme(const struct qp_checkpoint *c, const struct qp_part *part)
{
    char module[256];
    if (!c->scheme || part->bias || (part->kind != QP_PART_LINEAR && part->kind != QP_PART_HEAD))
        return NULL;
    return qp_scheme_for(c->scheme, qp_part_module(&c->arch, part, module, sizeof module));
}

static int check_shape(const struct qp_checkpoint *c, const struct qp_part *part, const struct qp_tensor *t,
                       struct qp_error *err)
{
    char found[128], expected[64];
    int64_t shape[2];
    int rank = qp_part_shape(&c->arch, part, shape);
    if (t->rank != rank || (rank > 0 && t->shape[0] != shape[0]) || (rank == 2 && t->shape[1] != shape[1]))
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: found shape %s, expected %s from config.json", c->path, t->name,
                       qp_shape_text(t->rank, t->shape, found, sizeof found),
                       qp_shape_text(rank, shape, expected, sizeof expected));
    if (!qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: found dtype %s, expected F32, F16, BF16 or F64", c->path, t->name,
                       qp_dtype_name(t->dtype));
    return 0;
}

static int check_safetensors_part(const struct qp_checkpoint *c, const struct qp_part *part, struct qp_error *err)
{
    char name[256];
    qp_part_name(&c->arch, part, name, sizeof name);
    if (stored_scheme(c, part)) {
        char scale[sizeof name + 8];
        snprintf(scale, sizeof scale, "%s_scale", name);
        if (!qp_checkpoint_find(c, scale))
            return qp_fail(err, QP_ERR_INPUT, "%s: %s is missing, though quantization_config says that it is there",
                           c->path, scale);
        return 0; /* the rest is checked when it is unpacked */
    }
    const struct qp_tensor *t = qp_checkpoint_find(c, name);
    if (!t)
        return qp_fail(err, QP_ERR_INPUT, "%s: tensor %s is missing", c->path, name);
    return check_shape(c, part, t, err);
}

static int check_part(const struct qp_checkpoint *c, const struct qp_part *part, struct qp_error *err)
{
    if (c->gguf)
        return qp_gguf_check_part(c->gguf, &c->arch, part, err);
    return c->gpt2 ? qp_gpt2_check_part(c->safetensors, c->path, &c->arch, part, err)
                   : check_safetensors_part(c, part, err);
}

static int check_parts(const struct qp_checkpoint *c, struct qp_error *err)
{
    struct qp_part part;
    for (int64_t b = 0; b < qp_arch_blocks(&c->arch); b++)
        QP_EACH_PART(part, &c->arch, b)
        {
            int r = check_part(c, &part, err);
            if (r < 0)
                return r;
        }
    return 0;
}

/* config.json may say nothing of the dtype, or what the model was trained in: what is stored counts, here and for all
 * who read the config later. */
static void settle_dtype(struct qp_checkpoint *c)
{
    static const char *const names[QP_DTYPE_COUNT] = {
        [QP_F32] = "float32", [QP_F16] = "float16", [QP_BF16] = "bfloat16"};
    char name[256];
    struct qp_part part = {.kind = QP_PART_EMBEDDING};
    const struct qp_tensor *t = c->gpt2 ? qp_gpt2_source(c->safetensors, &c->arch, &part)
                                        : qp_checkpoint_find(c, qp_part_name(&c->arch, &part, name, sizeof name));
    enum qp_dtype stored = !t ? c->arch.dtype : t->dtype == QP_F16 || t->dtype == QP_BF16 ? t->dtype : QP_F32;
    const char *key = json_object_get(c->config, "dtype") ? "dtype" : "torch_dtype";
    c->arch.dtype = stored;
    json_object_set_new(c->config, key, json_string(names[stored]));
}

/* Whether a multimodal model's head is tied: its configurations contradict each other, the file does not. */
static void settle_head(struct qp_checkpoint *c)
{
    char name[256];
    struct qp_part head = {.kind = QP_PART_HEAD};
    if (!c->arch.wrapper)
        return;
    c->arch.tied = !qp_checkpoint_find(c, qp_part_name(&c->arch, &head, name, sizeof name));
    json_object_set_new(c->config, "tie_word_embeddings", json_boolean(c->arch.tied));
    json_object_set_new(json_object_get(c->config, "text_config"), "tie_word_embeddings", json_boolean(c->arch.tied));
}

/* Reads config.json; a GPT-2's becomes that of an OPT. */
static int read_config(struct qp_checkpoint *c, const char *path, struct qp_error *err)
{
    json_t *opt;
    int r = qp_read_json(path, CONFIG_LIMIT, &c->config, err);
    c->gpt2 = r == 0 && qp_is_gpt2(c->config);
    if (!c->gpt2)
        return r;
    r = qp_gpt2_config(c->config, path, &opt, err);
    if (r < 0)
        return r;
    json_decref(c->config);
    c->config = opt;
    return 0;
}

static int open_folder(struct qp_checkpoint *c, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(c->path, "config.json");
    if (!path)
        return qp_fail_memory(err, 0, c->path);
    int r = read_config(c, path, err);
    if (r == 0)
        r = qp_arch_parse(c->config, path, &c->arch, err);
    if (r == 0)
        r = qp_safetensors_open(c->path, &c->safetensors, err);
    if (r < 0)
        return r;
    settle_dtype(c);
    settle_head(c);
    const json_t *quantization = json_object_get(c->config, "quantization_config");
    if (!quantization || json_is_null(quantization))
        return 0;
    r = qp_compressed_parse(quantization, path, &c->scheme, err);
    if (r < 0)
        return r;
    qp_scheme_bind(c->scheme, c->arch.dtype);
    return qp_checkpoint_open_adapter(c, err);
}

static int open_gguf(struct qp_checkpoint *c, struct qp_error *err)
{
    int r = qp_gguf_open(c->path, &c->gguf, err);
    if (r == 0)
        r = qp_gguf_config(c->gguf, &c->config, err);
    return r < 0 ? r : qp_arch_parse(c->config, c->path, &c->arch, err);
}

int qp_checkpoint_open(const char *path, struct qp_checkpoint **out, struct qp_error *err)
{
    struct qp_checkpoint *c = calloc(1, sizeof *c);
    if (!c || !(c->path = strdup(path))) {
        free(c);
        return qp_fail_memory(err, sizeof *c, path);
    }
    size_t length = strlen(path);
    int r;
    if (qp_is_folder(path))
        r = open_folder(c, err);
    else if (length > 5 && strcmp(path + length - 5, ".gguf") == 0)
        r = open_gguf(c, err);
    else
        r = qp_fail(err, QP_ERR_INPUT, "%s: %s; a model is a Hugging Face folder or a .gguf file", path,
                    qp_exists(path) ? "neither a folder nor named .gguf" : "no such file or folder");
    if (r == 0)
        r = check_parts(c, err);
    if (r < 0) {
        qp_checkpoint_close(c);
        return r;
    }
    *out = c;
    return 0;
}

void qp_checkpoint_close(struct qp_checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    qp_safetensors_close(checkpoint->safetensors);
    qp_safetensors_close(checkpoint->adapter);
    qp_gguf_close(checkpoint->gguf);
    qp_scheme_free(checkpoint->scheme);
    json_decref(checkpoint->config);
    free(checkpoint->path);
    free(checkpoint);
}

static struct qp_tensor *find_stored(void *context, const char *name)
{
    return qp_checkpoint_find(context, name);
}

static int unpack(struct qp_checkpoint *c, const struct qp_part *part, const struct qp_linear_scheme *scheme,
                  const struct qp_allocator *allocator, struct qp_tensor **out, struct qp_error *err)
{
    char module[256], name[256];
    int64_t shape[2];
    qp_part_shape(&c->arch, part, shape);
    qp_part_module(&c->arch, part, module, sizeof module);
    qp_auto_tensor struct qp_tensor *t = NULL;
    int r = qp_allocate(allocator, qp_part_name(&c->arch, part, name, sizeof name), QP_F32, 2, shape, &t, err);
    if (r == 0)
        r = qp_compressed_unpack(module, scheme, shape[0], shape[1], (struct qp_finder){find_stored, c}, t->data, err);
    if (r < 0)
        return qp_wrap(err, "%s", c->path);
    *out = t;
    t = NULL;
    return 0;
}

static int load_part(struct qp_checkpoint *c, const struct qp_part *part, const struct qp_allocator *allocator,
                     struct qp_tensor **out, struct qp_error *err)
{
    char name[256];
    if (c->gguf)
        return qp_gguf_part(c->gguf, &c->arch, part, allocator, out, err);
    if (c->gpt2)
        return qp_gpt2_part(c->safetensors, &c->arch, part, allocator, out, err);
    const struct qp_linear_scheme *scheme = stored_scheme(c, part);
    if (scheme)
        return unpack(c, part, scheme, allocator, out, err);
    struct qp_tensor *t = qp_checkpoint_find(c, qp_part_name(&c->arch, part, name, sizeof name));
    if (strcmp(t->name, name) != 0)
        return qp_tensor_view(name, t->dtype, t->rank, t->shape, (struct qp_place){t->storage, t->offset}, out, err);
    *out = qp_tensor_ref(t);
    return 0;
}

int qp_checkpoint_tensor(struct qp_checkpoint *checkpoint, const char *name, const struct qp_allocator *allocator,
                         struct qp_tensor **out, struct qp_error *err)
{
    struct qp_part part;
    if (!qp_part_find(&checkpoint->arch, name, &part))
        return qp_fail(err, QP_ERR_INPUT, "%s: a %s model of %lld layers has no tensor %s", checkpoint->path,
                       checkpoint->arch.model_type, (long long)checkpoint->arch.layers, name);
    return load_part(checkpoint, &part, allocator, out, err);
}

int qp_checkpoint_block(struct qp_checkpoint *checkpoint, int64_t index, const struct qp_allocator *allocator,
                        struct qp_unit **out, struct qp_error *err)
{
    if (index < 0 || index >= qp_arch_blocks(&checkpoint->arch))
        return qp_fail(err, QP_ERR_INPUT, "%s: found block %lld, expected 0 to %lld", checkpoint->path,
                       (long long)index, (long long)qp_arch_blocks(&checkpoint->arch) - 1);
    struct qp_part part;
    qp_auto_unit struct qp_unit *unit = NULL;
    int r = qp_unit_new(QP_UNIT_BLOCK, index + 1, &unit, err);
    QP_EACH_PART(part, &checkpoint->arch, index)
    {
        struct qp_tensor *t;
        if (r == 0)
            r = qp_operations_go_on(err);
        if (r == 0)
            r = load_part(checkpoint, &part, allocator, &t, err);
        if (r == 0)
            r = qp_unit_put(unit, t, err);
    }
    if (r < 0)
        return r;
    *out = unit;
    unit = NULL;
    return 0;
}

int qp_checkpoint_tokenizer(const struct qp_checkpoint *checkpoint, char **out, struct qp_error *err)
{
    *out = NULL;
    if (checkpoint->gguf && !json_object_get(checkpoint->gguf->metadata, "tokenizer.ggml.model"))
        return 0;
    qp_auto_free char *path = checkpoint->gguf ? strdup(checkpoint->path) : qp_join(checkpoint->path, "tokenizer.json");
    if (!path)
        return qp_fail_memory(err, strlen(checkpoint->path), "a path");
    if (qp_exists(path)) {
        *out = path;
        path = NULL;
    }
    return 0;
}

int qp_checkpoint_model(struct qp_checkpoint *checkpoint, const struct qp_scheme *scheme, struct qp_unit **out,
                        struct qp_error *err)
{
    qp_auto_unit struct qp_unit *unit = NULL;
    qp_auto_free char *tokenizer = NULL;
    int r = qp_unit_new(QP_UNIT_MODEL, 0, &unit, err);
    if (r == 0)
        r = qp_checkpoint_tokenizer(checkpoint, &tokenizer, err);
    if (r < 0)
        return r;
    json_t *attrs =
        json_pack("{s:s, s:O, s:s?, s:O, s:I, s:o}", "path", checkpoint->path, "config", checkpoint->config,
                  "tokenizer", tokenizer, "scheme", scheme->source, "blocks",
                  (json_int_t)qp_arch_blocks(&checkpoint->arch), "network", qp_arch_describe(&checkpoint->arch));
    if (!attrs)
        return qp_fail(err, QP_ERR_INPUT, "%s: the path is no UTF-8; rename it", checkpoint->path);
    json_decref(unit->attrs);
    unit->attrs = attrs;
    *out = unit;
    unit = NULL;
    return 0;
}
