#include "libstage/network/checkpoint_gpt2.h"

#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/config_read.h"

/* ---- config.json ---- */

bool qp_is_gpt2(const json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "model_type"));
    return type && strcmp(type, "gpt2") == 0;
}

/* What OPT cannot do differently. */
static int check_config(const struct qp_config_object *o, struct qp_error *err)
{
    static const struct {
        struct qp_flag flag;
        const char *expected;
    } flags[] = {{{"scale_attn_weights", true}, "true"},
                 {{"scale_attn_by_inverse_layer_idx", false}, "false"},
                 {{"add_cross_attention", false}, "false"}};
    double eps;
    bool value;
    if (qp_config_real(o, "layer_norm_epsilon", 1e-5, &eps, err) < 0)
        return err->code;
    if (eps < 0.99e-5 || eps > 1.01e-5)
        return qp_config_wrong(o, "layer_norm_epsilon", "1e-5, as GPT-2 is read as OPT, which has no other", err);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (qp_config_flag(o, &flags[i].flag, &value, err) < 0)
            return err->code;
        if (value != flags[i].flag.fallback)
            return qp_config_wrong(o, flags[i].flag.key, flags[i].expected, err);
    }
    return 0;
}

static int copy_sizes(const struct qp_config_object *o, json_t *to, struct qp_error *err)
{
    static const struct {
        const char *from, *to;
        int64_t fallback; /* of GPT2Config */
    } sizes[] = {{"vocab_size", "vocab_size", 50257},
                 {"n_embd", "hidden_size", 768},
                 {"n_layer", "num_hidden_layers", 12},
                 {"n_head", "num_attention_heads", 12},
                 {"n_positions", "max_position_embeddings", 1024}};
    int64_t value, hidden, ffn;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (qp_config_int(o, sizes[i].from, sizes[i].fallback, 1, 1 << 26, &value, err) < 0)
            return err->code;
        json_object_set_new(to, sizes[i].to, json_integer((json_int_t)value));
    }
    hidden = json_integer_value(json_object_get(to, "hidden_size"));
    if (qp_config_int(o, "n_inner", 4 * hidden, 1, 1 << 26, &ffn, err) < 0)
        return err->code;
    json_object_set_new(to, "word_embed_proj_dim", json_integer((json_int_t)hidden));
    json_object_set_new(to, "ffn_dim", json_integer((json_int_t)ffn));
    return 0;
}

int qp_gpt2_config(const json_t *config, const char *path, json_t **out, struct qp_error *err)
{
    static const char *const same[] = {"dtype", "torch_dtype", "bos_token_id", "eos_token_id", "tie_word_embeddings"};
    struct qp_error ignored;
    err = err ? err : &ignored;
    const struct qp_config_object o = {config, path, ""};
    qp_auto_json json_t *to = json_pack("{s:[s], s:s, s:b, s:b, s:n}", "architectures", "OPTForCausalLM", "model_type",
                                        "opt", "do_layer_norm_before", 1, "enable_bias", 1, "pad_token_id");
    const char *act;
    if (!to)
        return qp_fail_memory(err, 0, path);
    if (check_config(&o, err) < 0 || copy_sizes(&o, to, err) < 0 ||
        qp_config_string(&o, "activation_function", "gelu_new", &act, err) < 0)
        return err->code;
    json_object_set_new(to, "activation_function", json_string(act));
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (qp_config_has(&o, same[i]))
            json_object_set(to, same[i], json_object_get(config, same[i]));
    *out = json_incref(to);
    return 0;
}

/* ---- tensors ---- */

/* Where a module of OPT's layer comes from: all of a module of GPT-2's, or the first, second or last third of it. */
static const struct source {
    const char *opt, *gpt2;
    int third; /* -1: all */
} sources[] = {{"self_attn.q_proj", "attn.c_attn", 0},
               {"self_attn.k_proj", "attn.c_attn", 1},
               {"self_attn.v_proj", "attn.c_attn", 2},
               {"self_attn.out_proj", "attn.c_proj", -1},
               {"fc1", "mlp.c_fc", -1},
               {"fc2", "mlp.c_proj", -1},
               {"self_attn_layer_norm", "ln_1", -1},
               {"final_layer_norm", "ln_2", -1}};

static const struct source *source_of(const struct qp_arch *arch, const struct qp_part *part)
{
    const struct qp_layer_type *type = qp_layer_type(arch, part->layer);
    const char *module =
        part->kind == QP_PART_NORM ? type->norms[part->index].module : type->linears[part->index].module;
    size_t i = 0;
    while (strcmp(sources[i].opt, module) != 0)
        i++;
    return &sources[i];
}

static bool is_linear(const struct qp_part *part)
{
    return part->kind == QP_PART_LINEAR;
}

/* The source's name, "transformer." included where it has that. */
static const char *source_name(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size)
{
    const char *end = part->bias ? "bias" : "weight";
    if (part->kind == QP_PART_NORM || is_linear(part))
        snprintf(text, size, "transformer.h.%lld.%s.%s", (long long)part->layer, source_of(arch, part)->gpt2, end);
    else
        snprintf(text, size, "%s.%s",
                 part->kind == QP_PART_EMBEDDING    ? "transformer.wte"
                 : part->kind == QP_PART_POSITIONS  ? "transformer.wpe"
                 : part->kind == QP_PART_FINAL_NORM ? "transformer.ln_f"
                                                    : "lm_head",
                 end);
    return text;
}

struct qp_tensor *qp_gpt2_source(const struct qp_safetensors *file, const struct qp_arch *arch,
                                 const struct qp_part *part)
{
    static const char prefix[] = "transformer.";
    char name[256];
    source_name(arch, part, name, sizeof name);
    struct qp_tensor *t = qp_safetensors_find(file, name);
    bool bare = !t && strncmp(name, prefix, sizeof prefix - 1) == 0;
    return bare ? qp_safetensors_find(file, name + sizeof prefix - 1) : t;
}

/* The shape of a part's source, and how many of its columns come before the part's own. */
static int source_shape(const struct qp_arch *arch, const struct qp_part *part, int64_t shape[2], int64_t *first)
{
    int rank = qp_part_shape(arch, part, shape);
    *first = 0;
    if (part->kind == QP_PART_POSITIONS)
        shape[0] = arch->max_length;
    if (!is_linear(part))
        return rank;
    int third = source_of(arch, part)->third;
    int64_t out = shape[0];
    *first = third > 0 ? third * out : 0;
    shape[rank - 1] = third < 0 ? out : 3 * out;
    if (rank == 2)
        shape[0] = qp_layer_type(arch, part->layer)->linears[part->index].in;
    return rank;
}

int qp_gpt2_check_part(const struct qp_safetensors *file, const char *path, const struct qp_arch *arch,
                       const struct qp_part *part, struct qp_error *err)
{
    char name[256], found[128], expected[64];
    int64_t shape[2], first;
    int rank = source_shape(arch, part, shape, &first);
    const struct qp_tensor *t = qp_gpt2_source(file, arch, part);
    if (!t)
        return qp_fail(err, QP_ERR_INPUT, "%s: tensor %s is missing", path, source_name(arch, part, name, sizeof name));
    if (t->rank != rank || t->shape[0] != shape[0] || (rank == 2 && t->shape[1] != shape[1]) ||
        !qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: found %s %s, expected %s from config.json in F32, F16, BF16 or F64",
                       path, t->name, qp_dtype_name(t->dtype), qp_shape_text(t->rank, t->shape, found, sizeof found),
                       qp_shape_text(rank, shape, expected, sizeof expected));
    return 0;
}

/* to[out, in] = columns of from[in, cols] from `first` on; a bias is one row of those. Any element size. */
static void copy_columns(const struct qp_tensor *from, int64_t first, struct qp_tensor *to)
{
    size_t size = (size_t)qp_dtype_bits(to->dtype) / 8;
    int64_t out = to->shape[0], in = to->rank == 2 ? to->shape[1] : 1, cols = from->shape[from->rank - 1];
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++)
            memcpy((char *)to->data + (size_t)(o * in + i) * size,
                   (const char *)from->data + (size_t)(i * cols + first + o) * size, size);
}

int qp_gpt2_part(const struct qp_safetensors *file, const struct qp_arch *arch, const struct qp_part *part,
                 const struct qp_allocator *allocator, struct qp_tensor **out, struct qp_error *err)
{
    char name[256];
    int64_t shape[2], first;
    const struct qp_tensor *from = qp_gpt2_source(file, arch, part);
    source_shape(arch, part, shape, &first);
    int rank = qp_part_shape(arch, part, shape);
    qp_part_name(arch, part, name, sizeof name);
    if (!is_linear(part) && part->kind != QP_PART_POSITIONS)
        return qp_tensor_view(name, from->dtype, rank, shape, (struct qp_place){from->storage, from->offset}, out, err);
    int r = qp_allocate(allocator, name, from->dtype, rank, shape, out, err);
    if (r < 0)
        return r;
    if (is_linear(part)) {
        copy_columns(from, first, *out);
    } else {
        memset((*out)->data, 0, (*out)->bytes - from->bytes);
        memcpy((char *)(*out)->data + (*out)->bytes - from->bytes, from->data, from->bytes);
    }
    return 0;
}
