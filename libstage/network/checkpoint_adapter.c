/* The LoRA adapter in a quantized checkpoint's folder: corrections of low rank, as a block unit carries them. */
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/block_internal.h"
#include "libstage/network/checkpoint.h"

#define CONFIG_LIMIT ((size_t)1 << 20)

static struct qp_tensor *find_factor(const struct qp_checkpoint *c, int64_t layer, int linear, const char *which)
{
    char module[256], name[320];
    qp_module_name(&c->arch, layer, linear, module, sizeof module);
    snprintf(name, sizeof name, QP_ADAPTER_NAME, module, which);
    return qp_safetensors_find(c->adapter, name);
}

static bool is_set(const json_t *config, const char *key)
{
    return json_is_true(json_object_get(config, key));
}

/* Only what is added as it is: W x + b (a x). */
static int check_config(const json_t *config, const char *path, int64_t *rank, struct qp_error *err)
{
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    json_int_t r = json_integer_value(json_object_get(config, "r"));
    double alpha = json_number_value(json_object_get(config, "lora_alpha"));
    bool scaled = json_object_size(json_object_get(config, "alpha_pattern")) > 0;
    if (!type || strcmp(type, "LORA") != 0)
        return qp_fail(err, QP_ERR_INPUT, "%s: found peft_type %s, expected LORA", path, type ? type : "none");
    if (scaled || is_set(config, "use_dora") || is_set(config, "use_rslora"))
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: found alpha_pattern, use_dora or use_rslora, expected factors that are added as they are",
                       path);
    if (r < 1 || alpha != (double)r)
        return qp_fail(err, QP_ERR_INPUT, "%s: found r %lld and lora_alpha %g, expected the same number above 0", path,
                       (long long)r, alpha);
    *rank = r;
    return 0;
}

static int check_factor(const struct qp_tensor *t, const char *path, int64_t rows, int64_t cols, struct qp_error *err)
{
    char found[128], expected[64];
    if (t->rank == 2 && t->shape[0] == rows && t->shape[1] == cols)
        return 0;
    return qp_fail(err, QP_ERR_INPUT, "%s: %s: found shape %s, expected %s", path, t->name,
                   qp_shape_text(t->rank, t->shape, found, sizeof found),
                   qp_shape_text(2, (int64_t[]){rows, cols}, expected, sizeof expected));
}

/* Whether the linear has both factors or none; adds them to *known. */
static int check_linear(const struct qp_checkpoint *c, const char *path, int64_t layer, int linear, int64_t rank,
                        size_t *known, struct qp_error *err)
{
    const struct qp_linear *d = &qp_layer_type(&c->arch, layer)->linears[linear];
    const struct qp_tensor *a = find_factor(c, layer, linear, "A"), *b = find_factor(c, layer, linear, "B");
    if (!a && !b)
        return 0;
    if (!a || !b)
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: found one factor of two", path, (a ? a : b)->name);
    *known += 2;
    int r = check_factor(a, path, rank, d->in, err);
    return r < 0 ? r : check_factor(b, path, d->out, rank, err);
}

/* Whether each of the adapter's tensors belongs to a linear. */
static int check_tensors(const struct qp_checkpoint *c, const char *path, int64_t rank, struct qp_error *err)
{
    size_t known = 0;
    int r = 0;
    for (int64_t layer = 0; layer < c->arch.layers && r == 0; layer++)
        for (int l = 0; l < qp_layer_type(&c->arch, layer)->linear_count && r == 0; l++)
            r = check_linear(c, path, layer, l, rank, &known, err);
    if (r == 0 && known != c->adapter->count)
        return qp_fail(err, QP_ERR_INPUT, "%s: found %zu tensors, of which %zu correct linears; expected no others",
                       path, c->adapter->count, known);
    return r;
}

int qp_checkpoint_open_adapter(struct qp_checkpoint *c, struct qp_error *err)
{
    qp_auto_free char *folder = qp_join(c->path, QP_ADAPTER_FOLDER);
    qp_auto_free char *config = qp_format("%s/%s/%s", c->path, QP_ADAPTER_FOLDER, QP_ADAPTER_CONFIG);
    qp_auto_free char *tensors = qp_format("%s/%s/%s", c->path, QP_ADAPTER_FOLDER, QP_ADAPTER_TENSORS);
    json_t *read = NULL;
    int64_t rank = 0;
    if (!folder || !config || !tensors)
        return qp_fail_memory(err, 0, "a path");
    if (!qp_is_folder(folder))
        return 0;
    int r = qp_read_json(config, CONFIG_LIMIT, &read, err);
    qp_auto_json json_t *value = read;
    if (r == 0)
        r = check_config(value, config, &rank, err);
    if (r == 0)
        r = qp_safetensors_open(tensors, &c->adapter, err);
    return r < 0 ? r : check_tensors(c, tensors, rank, err);
}

static int add_factor(struct qp_block *block, int linear, const char *what, const struct qp_tensor *from,
                      struct qp_error *err)
{
    char name[256];
    struct qp_tensor *t;
    qp_block_name(block, block->type->linears[linear].module, what, name, sizeof name);
    int r = qp_tensor_view(name, from->dtype, from->rank, from->shape, (struct qp_place){from->storage, from->offset},
                           &t, err);
    return r < 0 ? r : qp_unit_put(block->unit, t, err);
}

int qp_checkpoint_low_rank(const struct qp_checkpoint *c, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    for (int l = 0; c->adapter && l < block->type->linear_count && r == 0; l++) {
        const struct qp_tensor *a = find_factor(c, block->layer, l, "A");
        const struct qp_tensor *b = find_factor(c, block->layer, l, "B");
        if (!a)
            continue;
        r = add_factor(block, l, "low_rank_a", a, err);
        if (r == 0)
            r = add_factor(block, l, "low_rank_b", b, err);
    }
    return r;
}
