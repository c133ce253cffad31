/* export: writes the quantized checkpoint as a Hugging Face folder.
 *
 * In: validated or quantized blocks. Tensors are written as blocks arrive, into a new folder beside the output;
 * config.json with quantization_config, the tokenizer's and generation files follow at the end; then one rename makes
 * the output appear whole. Low-rank corrections lie in its folder low_rank, as a LoRA adapter
 * (stages/export/adapter.h). A block is acknowledged when its tensors are written. Memory: one block's packed
 * tensors, and what is on its way to the disk (libstage/base/file_writer.h).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/file_writer.h"
#include "libstage/base/memory.h"
#include "libstage/base/publish.h"
#include "libstage/formats/compressed_size.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/safetensors.h"
#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "libstage/network/block_content.h"
#include "libstage/network/families/family.h"
#include "libstage/network/estimate.h"
#include "libstage/network/model_unit.h"
#include "libstage/network/parts.h"
#include "libstage/tensor/operations.h"
#include "stages/export/adapter.h"
#include "libstage/tensor/digest.h"
#include "stages/export/side_files.h"

struct state {
    const char *format;
    int64_t shard;
    struct qp_model model;
    char *output;
    char *temporary;               /* a folder of this process's own beside the output */
    char *partial;                 /* in it: what becomes the output */
    struct qp_safetensors *source; /* of a multimodal model: what its other parts are copied from; else NULL */
    struct qp_safetensors_writer *writer;
    struct qp_digest *digest;   /* of what is written */
    struct qp_digest *received; /* of what came (libstage/network/block_content.h) */
    struct qp_adapter *adapter;
    json_t *ignore; /* linears left as they are */
    uint64_t original_bytes;
    const struct qp_kernels *kernels;
};

static const char *const export_formats[] = {"compressed-tensors", NULL};
static const struct qp_param params[] = {
    QP_CHOICE("format", struct state, format, "compressed-tensors", export_formats,
              "layout of the quantized checkpoint"),
    QP_INT("shard", struct state, shard, "5000000000", 1e6, 1e15, "largest size of one safetensors file, in bytes"),
    {0}};
static const char *const needs[] = {"quantized", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "quantized blocks"}, {0}};

static int open_output(struct state *s, struct qp_error *err)
{
    if (qp_exists(s->output))
        return qp_fail(err, QP_ERR_INPUT, "%s: exists already; remove it, or name another output", s->output);
    qp_auto_free char *folder = qp_folder_of(s->output);
    int r = folder ? qp_make_folders(folder, err) : qp_fail_memory(err, 0, "a path");
    if (r == 0)
        r = qp_temporary_new(s->output, &s->temporary, err);
    if (r < 0)
        return r;
    size_t most = qp_quantized_parts_most(&s->model.arch);
    if (s->model.arch.wrapper)
        r = qp_safetensors_open(qp_model_string(&s->model, "path"), &s->source, err);
    if (r < 0)
        return r;
    most += s->source ? s->source->count : 0;
    s->partial = qp_join(s->temporary, "output");
    r = s->partial ? qp_make_folders(s->partial, err) : qp_fail_memory(err, 0, "a path");
    if (r == 0)
        r = qp_safetensors_create(s->partial, (uint64_t)s->shard, most, &s->writer, err);
    if (r == 0)
        r = qp_adapter_new(s->partial, &s->model.arch, &s->adapter, err);
    return r;
}

/* What the layout cannot hold is refused before anything is computed. */
static int check_layout(const struct qp_model *model, struct qp_error *err)
{
    for (int64_t layer = 0; layer < model->arch.layers; layer++)
        for (int i = 0; i < qp_layer_type(&model->arch, layer)->linear_count; i++) {
            const struct qp_linear *desc = &qp_layer_type(&model->arch, layer)->linears[i];
            const struct qp_linear_scheme *scheme = qp_model_scheme(model, layer, i);
            char module[256];
            qp_module_name(&model->arch, layer, i, module, sizeof module);
            int r = scheme ? qp_compressed_check(scheme, module, desc->out, desc->in, err) : 0;
            if (r < 0)
                return r;
        }
    return 0;
}

static int start(struct qp_stage *stage, struct state *s, const struct qp_unit *unit, struct qp_error *err)
{
    int r = qp_model_open(unit, &s->model, err);
    if (r < 0 || (r = check_layout(&s->model, err)) < 0)
        return r;
    const char *output = json_string_value(json_object_get(qp_stage_context(stage), "output"));
    s->output = output ? strdup(output) : NULL;
    s->ignore = json_pack("[s]", s->model.arch.head);
    if (s->model.arch.project_in) { /* linears to an engine */
        json_array_append_new(s->ignore, json_string(s->model.arch.project_in));
        json_array_append_new(s->ignore, json_string(s->model.arch.project_out));
    }
    for (size_t i = 0; s->model.arch.wrapper && i < 2; i++)
        json_array_append_new(s->ignore, json_string(s->model.arch.wrapper->ignore[i]));
    s->digest = qp_digest_new();
    s->received = qp_digest_new();
    if (!s->output || !s->ignore || !s->digest || !s->received)
        return qp_fail_memory(err, 0, "the output's description");
    return open_output(s, err);
}

/* Gives a tensor the name that a multimodal model's text part has in files. */
static int rename_stored(const struct state *s, struct qp_tensor **tensor, struct qp_error *err)
{
    char text[300];
    struct qp_tensor *t = *tensor;
    const char *name = qp_stored_name(&s->model.arch, t->name, text, sizeof text);
    if (name == t->name)
        return 0;
    int r = qp_tensor_view(name, t->dtype, t->rank, t->shape, (struct qp_place){t->storage, t->offset}, tensor, err);
    if (r == 0)
        qp_tensor_unref(t);
    return r;
}

/* Writes a tensor; takes over the reference. */
static int put(struct state *s, struct qp_tensor *tensor, struct qp_error *err)
{
    int r = qp_operations_go_on(err);
    if (r == 0)
        r = rename_stored(s, &tensor, err);
    if (r == 0)
        r = qp_digest_add(s->digest, tensor, err);
    if (r == 0)
        r = qp_safetensors_put(s->writer, tensor, err);
    qp_tensor_unref(tensor);
    return r;
}

/* Writes float32 values under a name, rounded to the model's dtype. */
static int put_values(struct state *s, const char *name, int rank, const int64_t *shape, const float *values,
                      struct qp_error *err)
{
    struct qp_tensor *tensor;
    int r = qp_tensor_new(name, s->model.arch.dtype, rank, shape, &tensor, err);
    if (r < 0)
        return r;
    s->kernels->from_f32(tensor->dtype, tensor->elements, values, tensor->data);
    return put(s, tensor, err);
}

/* Writes a tensor rounded to the model's dtype, by way of float32 in parts: an embedding may be larger than any layer.
 */
static int put_rounded(struct state *s, const char *name, const struct qp_tensor *tensor, struct qp_error *err)
{
    enum { PART = 1 << 20 };
    struct qp_tensor *rounded;
    size_t from = (size_t)qp_dtype_bits(tensor->dtype) / 8, to = (size_t)qp_dtype_bits(s->model.arch.dtype) / 8;
    qp_auto_free float *part = qp_new_floats(PART, "a part of a tensor", err);
    if (!part)
        return QP_ERR_SPACE;
    int r = qp_tensor_new(name, s->model.arch.dtype, tensor->rank, tensor->shape, &rounded, err);
    if (r < 0)
        return r;
    for (int64_t i = 0; i < tensor->elements; i += PART) {
        int64_t n = tensor->elements - i < PART ? tensor->elements - i : PART;
        s->kernels->to_f32(tensor->dtype, n, (const char *)tensor->data + (size_t)i * from, part);
        s->kernels->from_f32(rounded->dtype, n, part, (char *)rounded->data + (size_t)i * to);
    }
    return put(s, rounded, err);
}

/* Writes one of the block's own tensors in the model's dtype. */
static int put_own(struct state *s, const struct qp_block *block, const char *name, struct qp_error *err)
{
    struct qp_tensor *tensor = qp_unit_find(block->unit, name);
    if (!tensor || !qp_dtype_is_plain_float(tensor->dtype))
        return qp_fail(err, QP_ERR_INPUT, "%s: missing in block %lld, or no floats", name, (long long)block->layer);
    if (tensor->dtype == s->model.arch.dtype)
        return put(s, qp_tensor_ref(tensor), err);
    return put_rounded(s, name, tensor, err);
}

static int put_parameter(struct state *s, const struct qp_block *block, int parameter, struct qp_error *err)
{
    char name[256];
    return put_own(s, block,
                   qp_layer_name(block->arch, block->layer, block->type->parameters[parameter].name, name, sizeof name),
                   err);
}

static int put_norm(struct state *s, const struct qp_block *block, int norm, struct qp_error *err)
{
    char name[256];
    const struct qp_norm *d = &block->type->norms[norm];
    qp_block_name(block, d->module, "weight", name, sizeof name);
    float *gain = qp_new_floats(d->width, "a norm's gain", err);
    int r = gain ? qp_block_norm(block, norm, true, gain, err) : QP_ERR_SPACE;
    for (int64_t i = 0; r == 0 && d->offset != 0 && i < d->width; i++)
        gain[i] -= d->offset;
    if (r == 0)
        r = put_values(s, name, 1, &d->width, gain, err);
    qp_block_name(block, d->module, "bias", name, sizeof name);
    if (r == 0)
        r = qp_block_norm_bias(block, norm, true, gain, err);
    if (r > 0)
        r = put_values(s, name, 1, &d->width, gain, err);
    free(gain);
    return r;
}

static int put_bias(struct state *s, const struct qp_block *block, int linear, const char *module, struct qp_error *err)
{
    char name[300];
    int64_t out = block->type->linears[linear].out;
    snprintf(name, sizeof name, "%s.bias", module);
    float *bias = qp_new_floats(out, "a bias", err);
    int r = bias ? qp_block_bias(block, linear, true, bias, err) : QP_ERR_SPACE;
    if (r > 0)
        r = put_values(s, name, 1, &out, bias, err);
    free(bias);
    return r;
}

static int put_plain(struct state *s, const struct qp_block *block, int linear, const char *module,
                     struct qp_error *err)
{
    char name[300];
    const struct qp_linear *desc = &block->type->linears[linear];
    int64_t shape[2] = {desc->out, desc->in};
    snprintf(name, sizeof name, "%s.weight", module);
    float *w = qp_new_floats(shape[0] * shape[1], "a linear's weights", err);
    int r = w ? qp_block_weight(block, linear, true, w, err) : QP_ERR_SPACE;
    if (r == 0)
        r = put_values(s, name, 2, shape, w, err);
    if (r == 0)
        json_array_append_new(s->ignore, json_string(module));
    free(w);
    return r;
}

/* Writes a number that calibration fixed for `module` ("attn_in", "kv") of the block. */
static int put_fixed(struct state *s, const struct qp_block *block, const char *module, const char *what,
                     const char *name, enum qp_dtype dtype, struct qp_error *err)
{
    float value;
    struct qp_tensor *tensor;
    int r = qp_block_number(block, module, what, &value, err);
    if (r < 0)
        return qp_wrap(err, "%s, which quantize fixes from what calibrate saw", name);
    r = qp_compressed_fixed_scale(name, dtype, value, &tensor, err);
    return r < 0 ? r : put(s, tensor, err);
}

/* Scales of activations whose range, or NVFP4's global one, does not change at run time. */
static int put_input_scale(struct state *s, const struct qp_block *block, int linear, const struct qp_quant_spec *spec,
                           const char *module, struct qp_error *err)
{
    char name[300];
    const char *site = block->type->sites[block->type->linears[linear].site].name;
    const char *what = qp_spec_is_static(spec) ? "input_scale" : "input_global_scale";
    if (!qp_spec_is_static(spec) && !qp_spec_has_global(spec))
        return 0;
    snprintf(name, sizeof name, "%s.%s", module, what);
    return put_fixed(s, block, site, what, name, qp_spec_is_static(spec) ? spec->format.scale_dtype : QP_F32, err);
}

static int put_cache_scales(struct state *s, const struct qp_block *block, struct qp_error *err)
{
    char module[256], name[300];
    const struct qp_quant_spec *spec = &s->model.scheme->kv_cache;
    if (!spec->enabled)
        return 0;
    qp_module_name(block->arch, block->layer, block->type->key_linear, module, sizeof module);
    int attention = (int)(strrchr(module, '.') - module); /* k_proj's parent */
    snprintf(name, sizeof name, "%.*s.k_scale", attention, module);
    int r = put_fixed(s, block, "kv", "key_scale", name, spec->format.scale_dtype, err);
    snprintf(name, sizeof name, "%.*s.v_scale", attention, module);
    return r < 0 ? r : put_fixed(s, block, "kv", "value_scale", name, spec->format.scale_dtype, err);
}

static int put_quantized(struct state *s, const struct qp_linear_scheme *scheme, const struct qp_quantized *q,
                         const char *module, struct qp_error *err)
{
    struct qp_tensor *tensors[QP_COMPRESSED_MAX];
    size_t count;
    int r = qp_compressed_pack(module, scheme, q, tensors, &count, err);
    for (size_t i = 0; r == 0 && i < count; i++) {
        r = put(s, tensors[i], err);
        for (size_t j = i + 1; r < 0 && j < count; j++)
            qp_tensor_unref(tensors[j]);
    }
    return r;
}

static int put_linear(struct state *s, const struct qp_block *block, int linear, struct qp_error *err)
{
    char module[256];
    const struct qp_linear_scheme *scheme = qp_model_scheme(&s->model, block->layer, linear);
    struct qp_quantized q;
    qp_module_name(block->arch, block->layer, linear, module, sizeof module);
    int r = scheme ? qp_block_quantized(block, linear, scheme, &q, err) : 0;
    if (r > 0) {
        r = put_quantized(s, scheme, &q, module, err);
        if (r == 0)
            r = put_input_scale(s, block, linear, &scheme->activations, module, err);
    } else if (r == 0)
        r = put_plain(s, block, linear, module, err);
    if (r == 0)
        r = qp_adapter_put(s->adapter, block, linear, s->digest, err);
    return r < 0 ? r : put_bias(s, block, linear, module, err);
}

/* The embedding or the head with what is around it; a tied head is written as the embedding. */
static int put_end(struct state *s, const struct qp_block *block, struct qp_error *err)
{
    char name[256];
    struct qp_part part;
    int r = 0;
    QP_EACH_PART(part, block->arch, block->layer + 1)
    {
        bool tied = block->layer >= 0 && part.kind == QP_PART_EMBEDDING;
        if (r == 0 && !tied)
            r = put_own(s, block, qp_part_name(block->arch, &part, name, sizeof name), err);
    }
    return r;
}

/* Size of the checkpoint's own tensors of a block in the model's dtype; a tied head counts with the embedding. */
static void count_original(struct state *s, const struct qp_block *block)
{
    char tied[256];
    snprintf(tied, sizeof tied, "%s.weight", block->arch->embedding);
    bool head = block->layer == block->arch->layers;
    for (size_t i = 0; i < block->unit->count; i++) {
        const struct qp_tensor *t = block->unit->tensors[i];
        if (qp_tensor_is_own(block->arch, t) && !(head && strcmp(t->name, tied) == 0))
            s->original_bytes += (uint64_t)t->elements * (uint64_t)qp_dtype_bits(s->model.arch.dtype) / 8;
    }
}

/* Linears that the scheme quantizes and that came without codes stay as they are, which nobody may have wanted. */
static void warn_unquantized(struct qp_stage *stage, const struct state *s, const struct qp_block *block)
{
    char module[256], names[1024] = "";
    int count = 0;
    for (int i = 0; i < block->type->linear_count; i++) {
        const char *name = block->type->linears[i].module;
        size_t used = strlen(names);
        if (!qp_model_scheme(&s->model, block->layer, i) || qp_block_has_codes(block, i))
            continue;
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", name);
        count++;
    }
    if (count > 0)
        qp_stage_warn(stage, "linear-unquantized",
                      qp_layer_name(block->arch, block->layer, names, module, sizeof module),
                      "the scheme quantizes %s, but no codes came: %s in the output as in the checkpoint",
                      count > 1 ? "these" : "it", count > 1 ? "they stand" : "it stands");
}

static int put_block(struct qp_stage *stage, struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    struct qp_block block;
    int r = qp_block_of(&s->model.arch, s->kernels, unit, &block, err);
    if (r < 0)
        return r;
    count_original(s, &block);
    r = qp_block_digest(&block, s->received, err);
    if (r < 0)
        return r;
    if (!qp_block_is_layer(&block)) {
        r = put_end(s, &block, err);
    } else {
        for (int i = 0; i < block.type->norm_count && r == 0; i++)
            r = put_norm(s, &block, i, err);
        warn_unquantized(stage, s, &block);
        for (int i = 0; i < block.type->linear_count && r == 0; i++)
            r = put_linear(s, &block, i, err);
        for (int i = 0; i < block.type->parameter_count && r == 0; i++)
            r = put_parameter(s, &block, i, err);
        if (r == 0)
            r = put_cache_scales(s, &block, err);
    }
    if (r == 0)
        qp_stage_progress(stage, unit->seq, qp_arch_blocks(&s->model.arch));
    return r;
}

static int write_config(const struct state *s, struct qp_error *err)
{
    qp_auto_json json_t *config = json_deep_copy(json_object_get(s->model.attrs, "config"));
    qp_auto_free char *path = qp_format("%s/config.json", s->partial);
    json_t *quantization = NULL;
    if (!config || !path)
        return qp_fail_memory(err, 0, "config.json");
    int r = qp_compressed_config(s->model.scheme, s->ignore, &quantization, err);
    if (r < 0)
        return r;
    json_object_set_new(config, "quantization_config", quantization);
    return qp_write_json(path, config, err);
}

/* Makes the finished folder the output: it and its name are durable before this returns. */
static int publish(const struct state *s, struct qp_error *err)
{
    int r = qp_sync_folder(s->partial, err);
    return r < 0 ? r : qp_publish(s->partial, s->output, NULL, err);
}

static void report_output(struct qp_stage *stage, const struct state *s, uint64_t bytes, int64_t rank, uint64_t low)
{
    char digest[QP_DIGEST_TEXT];
    qp_digest_text(s->digest, digest);
    json_t *output = json_pack("{s:s, s:s, s:s, s:s, s:{s:I, s:I}}", "path", s->output, "scheme", s->model.scheme->name,
                               "format", s->format, "digest", digest, "size_bytes", "original",
                               (json_int_t)s->original_bytes, "quantized", (json_int_t)(bytes + low));
    if (rank > 0)
        json_object_set_new(output, "low_rank",
                            json_pack("{s:I, s:I}", "rank", (json_int_t)rank, "size_bytes", (json_int_t)low));
    qp_stage_report(stage, "outputs", json_pack("[o]", output));
}

/* Whether a stored tensor is of the text part, whose names all start in one of two ways. */
static bool is_text(const struct qp_wrapper *wrapper, const char *name)
{
    for (int i = 0; i < 2; i++)
        if (strncmp(name, wrapper->stored[i][1], strlen(wrapper->stored[i][1])) == 0)
            return true;
    return false;
}

/* The parts of a multimodal model that are not its text part, as they are. */
static int copy_others(struct state *s, struct qp_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && s->source && i < s->source->count; i++) {
        struct qp_tensor *t = s->source->tensors[i];
        if (is_text(s->model.arch.wrapper, t->name))
            continue;
        s->original_bytes += t->bytes;
        r = put(s, qp_tensor_ref(t), err);
    }
    return r;
}

static int finish(struct qp_stage *stage, struct state *s, struct qp_error *err)
{
    uint64_t bytes = 0, low = 0;
    int64_t rank = 0;
    int r = copy_others(s, err);
    if (r < 0)
        return r;
    struct qp_safetensors_writer *writer = s->writer;
    s->writer = NULL;
    r = qp_safetensors_finish(writer, &bytes, err);
    if (r == 0)
        r = qp_adapter_finish(s->adapter, &rank, &low, err);
    if (r == 0)
        r = write_config(s, err);
    if (r == 0)
        r = qp_write_side_files(qp_model_string(&s->model, "path"), s->partial, err);
    if (r == 0)
        r = publish(s, err);
    char received[QP_DIGEST_TEXT];
    if (r == 0)
        r = qp_content_text(s->model.scheme->source, s->received, received, err);
    if (r < 0)
        return r;
    report_output(stage, s, bytes, rank, low);
    qp_stage_report(stage, "received_digest", json_string(received));
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    int r;
    s->kernels = qp_stage_kernels(stage);
    if (unit->kind == QP_UNIT_MODEL)
        r = start(stage, s, unit, err);
    else if (unit->kind == QP_UNIT_BLOCK)
        r = put_block(stage, s, unit, err);
    else
        r = finish(stage, s, err);
    qp_unit_free(unit);
    return r;
}

/* A run that ended early leaves no half-written folder. */
static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    struct state *s = state;
    qp_safetensors_close(s->source);
    qp_safetensors_abandon(s->writer);
    if (s->temporary)
        qp_remove_tree(s->temporary, NULL);
    qp_adapter_free(s->adapter);
    qp_digest_free(s->digest);
    qp_digest_free(s->received);
    json_decref(s->ignore);
    qp_model_close(&s->model);
    free(s->output);
    free(s->temporary);
    free(s->partial);
}

/* A linear as it is stored, with its scales in float32 twice, or, of one that stays, in float32 and as it is stored. */
static double held_bytes(const struct qp_task *task)
{
    double most = 0;
    for (int64_t layer = 0; layer < task->arch->layers; layer++)
        for (int l = 0; l < qp_layer_type(task->arch, layer)->linear_count; l++) {
            const struct qp_linear *d = &qp_layer_type(task->arch, layer)->linears[l];
            const struct qp_linear_scheme *scheme = qp_task_scheme(task, layer, l);
            double weights = (double)d->out * (double)d->in;
            double bytes = 4 * weights + qp_task_stored(task, weights);
            if (scheme) {
                int64_t group = qp_spec_group(&scheme->weights, d->in);
                bytes = (double)qp_compressed_stored(scheme, task->arch->dtype, d->out, d->in).bytes +
                        2 * 4 * (double)qp_scale_count(d->out, d->in, group);
            }
            most = bytes > most ? bytes : most;
        }
    return most;
}

/* What it writes; of a budget that is known when its formats are. */
static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    const struct qp_arch *a = task->arch;
    double rest = (double)qp_arch_parameters(a);
    (void)state;
    (void)err;
    out->work_known = !task->scheme->budget;
    for (int64_t layer = 0; out->work_known && layer < a->layers; layer++)
        for (int l = 0; l < qp_layer_type(a, layer)->linear_count; l++) {
            const struct qp_linear *d = &qp_layer_type(a, layer)->linears[l];
            char module[256];
            qp_module_name(a, layer, l, module, sizeof module);
            rest -= (double)d->out * (double)d->in;
            out->work.disk_written +=
                (double)qp_compressed_stored(qp_scheme_for(task->scheme, module), a->dtype, d->out, d->in).bytes;
        }
    out->work.disk_written += qp_task_stored(task, out->work_known ? rest : 0);
    out->memory_known = true;
    out->fixed_bytes = fmin(out->work.disk_written, QP_FILE_WRITER_BYTES);
    out->block_bytes = held_bytes(task);
    return 0;
}

static const char *const forms[] = {"packed_codes", NULL};

static const char *const uses[] = {NULL};

const struct qp_stage_desc qp_stage_desc = {
    .name = "export",
    .summary = "writes the quantized checkpoint",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .stateful = true,
    .forms = forms,
    .estimate = estimate,
    .uses = uses,
    .process = process,
    .close = close_,
};
