#include "stages/export/adapter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"
#include "libstage/network/checkpoint.h"

struct qp_adapter {
    char *folder;
    const struct qp_arch *arch;
    int64_t rank;
    struct qp_safetensors_writer *writer;
    json_t *without; /* linears that have no correction */
    json_t *targets; /* the last parts of the names of those that have one, as keys in order */
};

int qp_adapter_new(const char *folder, const struct qp_arch *arch, struct qp_adapter **out, struct qp_error *err)
{
    struct qp_adapter *a = calloc(1, sizeof *a);
    if (a)
        *a = (struct qp_adapter){.folder = qp_join(folder, QP_ADAPTER_FOLDER),
                                 .arch = arch,
                                 .without = json_array(),
                                 .targets = json_object()};
    *out = a;
    if (a && a->folder && a->without && a->targets)
        return 0;
    return qp_fail_memory(err, sizeof *a, "an adapter");
}

void qp_adapter_free(struct qp_adapter *adapter)
{
    if (!adapter)
        return;
    qp_safetensors_abandon(adapter->writer);
    json_decref(adapter->without);
    json_decref(adapter->targets);
    free(adapter->folder);
    free(adapter);
}

/* The first correction says what rank all have. */
static int begin(struct qp_adapter *a, int64_t rank, struct qp_error *err)
{
    size_t most = 2 * (size_t)qp_arch_most_linears(a->arch) * (size_t)a->arch->layers;
    a->rank = rank;
    int r = qp_make_folders(a->folder, err);
    return r < 0 ? r : qp_safetensors_create(a->folder, INT64_MAX, most, &a->writer, err);
}

/* Writes the factor under the name that PEFT looks for. */
static int put_factor(struct qp_adapter *a, const struct qp_tensor *factor, const char *module, const char *which,
                      struct qp_digest *digest, struct qp_error *err)
{
    char name[320];
    qp_auto_tensor struct qp_tensor *t = NULL;
    snprintf(name, sizeof name, QP_ADAPTER_NAME, module, which);
    int r = qp_tensor_view(name, factor->dtype, factor->rank, factor->shape,
                           (struct qp_place){factor->storage, factor->offset}, &t, err);
    if (r == 0)
        r = qp_digest_add(digest, t, err);
    return r < 0 ? r : qp_safetensors_put(a->writer, t, err);
}

int qp_adapter_put(struct qp_adapter *adapter, const struct qp_block *block, int linear, struct qp_digest *digest,
                   struct qp_error *err)
{
    char module[256];
    const struct qp_tensor *a, *b;
    int r = qp_block_low_rank(block, linear, &a, &b, err);
    qp_module_name(block->arch, block->layer, linear, module, sizeof module);
    if (r == 0)
        json_array_append_new(adapter->without, json_string(module));
    if (r <= 0)
        return r;
    r = adapter->writer ? 0 : begin(adapter, a->shape[0], err);
    if (r == 0 && a->shape[0] != adapter->rank)
        r = qp_fail(err, QP_ERR_INPUT, "%s: found a correction of rank %lld, expected %lld as all others have", module,
                    (long long)a->shape[0], (long long)adapter->rank);
    const char *dot = strrchr(module, '.');
    if (r == 0 && json_object_set_new(adapter->targets, dot ? dot + 1 : module, json_true()) < 0)
        r = qp_fail_memory(err, 0, "an adapter");
    if (r == 0)
        r = put_factor(adapter, a, module, "A", digest, err);
    return r < 0 ? r : put_factor(adapter, b, module, "B", digest, err);
}

static json_t *list_targets(const struct qp_adapter *a)
{
    json_t *list = json_array(), *unused;
    const char *name;
    json_object_foreach(a->targets, name, unused)
        json_array_append_new(list, json_string(name));
    return list;
}

static int write_config(const struct qp_adapter *a, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(a->folder, QP_ADAPTER_CONFIG);
    qp_auto_json json_t *config =
        json_pack("{s:s, s:s, s:n, s:b, s:I, s:I, s:f, s:s, s:o, s:O, s:b, s:b, s:b}", "peft_type", "LORA", "task_type",
                  "CAUSAL_LM", "base_model_name_or_path", "inference_mode", 1, "r", (json_int_t)a->rank, "lora_alpha",
                  (json_int_t)a->rank, "lora_dropout", 0.0, "bias", "none", "target_modules", list_targets(a),
                  "exclude_modules", a->without, "fan_in_fan_out", 0, "use_rslora", 0, "use_dora", 0);
    if (!path || !config)
        return qp_fail_memory(err, 0, QP_ADAPTER_CONFIG);
    if (json_array_size(a->without) == 0)
        json_object_set_new(config, "exclude_modules", json_null());
    return qp_write_json(path, config, err);
}

int qp_adapter_finish(struct qp_adapter *adapter, int64_t *rank, uint64_t *bytes, struct qp_error *err)
{
    struct qp_safetensors_writer *writer = adapter->writer;
    qp_auto_free char *from = qp_join(adapter->folder, "model.safetensors");
    qp_auto_free char *to = qp_join(adapter->folder, QP_ADAPTER_TENSORS);
    *rank = adapter->rank;
    *bytes = 0;
    if (!writer)
        return 0;
    if (!from || !to)
        return qp_fail_memory(err, 0, "a path");
    adapter->writer = NULL;
    int r = qp_safetensors_finish(writer, bytes, err);
    if (r == 0 && rename(from, to) < 0)
        r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot rename to %s", from, to);
    if (r == 0)
        r = write_config(adapter, err);
    return r < 0 ? r : qp_sync_folder(adapter->folder, err);
}
