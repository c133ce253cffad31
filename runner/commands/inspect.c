/* `quantpipe inspect` */
#include <stdio.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/checkpoint.h"
#include "runner/size.h"
#include "runner/pipeline/sizes.h"
#include "runner/subcommand.h"

static const struct {
    const char *name;
    int bits;
    int64_t group;
    int rest_bits;
} formats[] = {
    {"FP32", 32, -1, 32}, {"BF16", 16, -1, 16}, {"FP8", 8, 0, 16}, {"INT8", 8, 0, 16}, {"INT4 g128", 4, 128, 16}};

static void count_tensor(json_t *types, const char *name, uint64_t elements, uint64_t bytes)
{
    json_t *type = json_object_get(types, name);
    if (!type) {
        type = json_pack("{s:i, s:i, s:i}", "tensors", 0, "elements", 0, "bytes", 0);
        json_object_set_new(types, name, type);
    }
    json_integer_set(json_object_get(type, "tensors"), json_integer_value(json_object_get(type, "tensors")) + 1);
    json_integer_set(json_object_get(type, "elements"),
                     json_integer_value(json_object_get(type, "elements")) + (json_int_t)elements);
    json_integer_set(json_object_get(type, "bytes"),
                     json_integer_value(json_object_get(type, "bytes")) + (json_int_t)bytes);
}

static json_t *types_of(const struct qp_checkpoint *c)
{
    json_t *types = json_object();
    for (size_t i = 0; c->safetensors && i < c->safetensors->count; i++) {
        const struct qp_tensor *t = c->safetensors->tensors[i];
        count_tensor(types, qp_dtype_name(t->dtype), (uint64_t)t->elements, t->bytes);
    }
    for (size_t i = 0; c->gguf && i < c->gguf->count; i++) {
        const struct qp_gguf_tensor *t = &c->gguf->tensors[i];
        count_tensor(types, qp_gguf_type_name(t->type), (uint64_t)t->elements, t->bytes);
    }
    return types;
}

static json_t *sizes_of(const struct qp_arch *arch)
{
    json_t *sizes = json_object();
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        json_object_set_new(
            sizes, formats[i].name,
            json_integer((json_int_t)qp_model_bytes(arch, formats[i].bits, formats[i].group, formats[i].rest_bits)));
    return sizes;
}

static json_t *answer(const struct qp_checkpoint *c)
{
    const struct qp_arch *a = &c->arch;
    json_t *shape = json_pack("{s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:I, s:b}", "layers", (json_int_t)a->layers,
                              "hidden", (json_int_t)a->hidden, "ffn", (json_int_t)a->ffn, "vocabulary",
                              (json_int_t)a->vocab, "heads", a->heads, "kv_heads", a->kv_heads, "head_dim", a->head_dim,
                              "max_length", (json_int_t)a->max_length, "tied", a->tied);
    return json_pack("{s:s, s:s, s:s, s:I, s:s, s:o, s:o, s:o, s:O?}", "path", c->path, "format",
                     c->gguf ? "gguf" : "safetensors", "architecture", a->class_name, "parameters",
                     (json_int_t)qp_arch_parameters(a), "dtype", qp_dtype_name(a->dtype), "shape", shape, "tensors",
                     types_of(c), "sizes", sizes_of(a), "quantization", c->scheme ? c->scheme->source : NULL);
}

static void print_types(const json_t *types)
{
    const char *name;
    json_t *type;
    char size[32];
    json_object_foreach((json_t *)types, name, type)
        printf("  %-14s %6lld tensors  %14lld elements  %12s\n", name,
               (long long)json_integer_value(json_object_get(type, "tensors")),
               (long long)json_integer_value(json_object_get(type, "elements")),
               qp_size_text((uint64_t)json_integer_value(json_object_get(type, "bytes")), size, sizeof size));
}

static void print_answer(const struct qp_checkpoint *c, const json_t *value)
{
    const struct qp_arch *a = &c->arch;
    char size[32];
    printf("%s\n", c->path);
    printf("  architecture   %s, %s, weights in %s\n", a->class_name, c->gguf ? "GGUF" : "safetensors",
           qp_dtype_name(a->dtype));
    printf("  parameters     %lld\n", (long long)qp_arch_parameters(a));
    printf("  layers         %lld of hidden %lld, ffn %lld, heads %d (%d for keys and values) of %d\n",
           (long long)a->layers, (long long)a->hidden, (long long)a->ffn, a->heads, a->kv_heads, a->head_dim);
    printf("  vocabulary     %lld%s, positions %lld\n", (long long)a->vocab, a->tied ? " (tied head)" : "",
           (long long)a->max_length);
    if (c->scheme) {
        qp_auto_free char *scheme = json_dumps(c->scheme->source, JSON_COMPACT);
        printf("  quantization   %s\n", scheme ? scheme : "?");
    }
    printf("\ntensors\n");
    print_types(json_object_get(value, "tensors"));
    printf("\nsize, linears of the layers in that format\n");
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        printf("  %-14s %12s\n", formats[i].name,
               qp_size_text(qp_model_bytes(a, formats[i].bits, formats[i].group, formats[i].rest_bits), size,
                            sizeof size));
}

static int inspect(const struct qp_args *args, struct qp_error *err)
{
    struct qp_checkpoint *checkpoint = NULL;
    const char *path = args->arguments[0];
    if (!qp_exists(path))
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: there is no such file or folder; expected a Hugging Face folder or a .gguf file", path);
    int r = qp_checkpoint_open(path, &checkpoint, err);
    if (r < 0)
        return r;
    json_t *value = answer(checkpoint);
    if (qp_arg(args, "json") || !value) {
        r = qp_print_json(value, err);
    } else {
        print_answer(checkpoint, value);
        json_decref(value);
    }
    qp_checkpoint_close(checkpoint);
    return r;
}

const struct qp_subcommand qp_subcommand_inspect = {
    .name = "inspect",
    .summary = "print what a model is: architecture, size in several formats, tensors",
    .usage = "MODEL",
    .min_arguments = 1,
    .max_arguments = 1,
    .options = {qp_json_option},
    .run = inspect,
};
