/* config.json -> struct qp_arch. Defaults are those of transformers' configuration classes. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/dtype.h"
#include "libstage/base/cleanup.h"
#include "libstage/model/family.h"

#define MAX_DIM (1 << 22) /* far above any model, and small enough that no product of two or three overflows */

/* One object of the file; `prefix` names it in messages: "" or "rope_scaling.". */
struct object {
    const json_t *json;
    const char *path, *prefix;
};

static bool present(const struct object *o, const char *key)
{
    const json_t *value = json_object_get(o->json, key);
    return value && !json_is_null(value);
}

static int wrong(const struct object *o, const char *key, const char *expected, struct qp_error *err)
{
    const json_t *value = json_object_get(o->json, key);
    char found[80] = "nothing";
    if (value && json_dumpb(value, found, 0, JSON_ENCODE_ANY) < sizeof found)
        found[json_dumpb(value, found, sizeof found - 1, JSON_ENCODE_ANY)] = '\0';
    else if (value)
        snprintf(found, sizeof found, "a longer value");
    return qp_fail(err, QP_ERR_INPUT, "%s: %s%s: found %s, expected %s", o->path, o->prefix, key, found, expected);
}

/* A whole number of [min, max]; `fallback` when the key is absent or null, unless it is below min: then required. */
static int get_int(const struct object *o, const char *key, int64_t fallback, int64_t min, int64_t max, int64_t *out,
                   struct qp_error *err)
{
    char expected[80];
    if (!present(o, key) && fallback >= min) {
        *out = fallback;
        return 0;
    }
    const json_t *value = json_object_get(o->json, key);
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= min && *out <= max)
        return 0;
    snprintf(expected, sizeof expected, "a whole number of %lld to %lld", (long long)min, (long long)max);
    return wrong(o, key, expected, err);
}

/* A finite number above 0; `fallback` when the key is absent or null, unless that is 0: then required. */
static int get_real(const struct object *o, const char *key, double fallback, double *out, struct qp_error *err)
{
    *out = present(o, key) ? json_number_value(json_object_get(o->json, key)) : fallback;
    return isfinite(*out) && *out > 0.0 ? 0 : wrong(o, key, "a number above 0", err);
}

static int get_flag(const struct object *o, const struct qp_flag *flag, bool *out, struct qp_error *err)
{
    const char *key = flag->key;
    *out = flag->fallback;
    if (!key || !present(o, key))
        return 0;
    *out = json_is_true(json_object_get(o->json, key));
    return json_is_boolean(json_object_get(o->json, key)) ? 0 : wrong(o, key, "true or false", err);
}

/* `fallback` when absent or null. */
static int get_string(const struct object *o, const char *key, const char *fallback, const char **out,
                      struct qp_error *err)
{
    *out = present(o, key) ? json_string_value(json_object_get(o->json, key)) : fallback;
    return *out || !present(o, key) ? 0 : wrong(o, key, "a string", err);
}

/* A token id, or the first one of a list of them (Llama 3 has several ends); -1 when absent. */
static int get_token(const struct object *o, const char *key, int64_t vocab, int32_t *out, struct qp_error *err)
{
    const json_t *value = json_object_get(o->json, key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    *out = -1;
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < -1 || json_integer_value(value) >= vocab)
        return wrong(o, key, "a token id below vocab_size, or a list of them", err);
    *out = (int32_t)json_integer_value(value);
    return 0;
}

static int get_family(const struct object *o, const struct qp_family **out, struct qp_error *err)
{
    char supported[256] = "";
    const char *type = json_string_value(json_object_get(o->json, "model_type"));
    const char *class_name = json_string_value(json_array_get(json_object_get(o->json, "architectures"), 0));
    for (const struct qp_family *const *f = qp_families(); *f; f++) {
        bool same_type = !type || strcmp(type, (*f)->name) == 0;
        bool same_class = !class_name || strcmp(class_name, (*f)->class_name) == 0;
        if ((type || class_name) && same_type && same_class) {
            *out = *f;
            return 0;
        }
        size_t at = strlen(supported);
        snprintf(supported + at, sizeof supported - at, "%s%s (%s)", at ? ", " : "", (*f)->name, (*f)->class_name);
    }
    return qp_fail(err, QP_ERR_INPUT, "%s: architecture %s (%s) is not supported; supported: %s", o->path,
                   type ? type : "without model_type", class_name ? class_name : "no class", supported);
}

static int get_llama3(const struct object *o, struct qp_arch *arch, struct qp_error *err)
{
    struct qp_rope_config *rope = &arch->ropes[0];
    rope->kind = QP_ROPE_LLAMA3;
    if (get_real(o, "factor", 0.0, &rope->factor, err) < 0 ||
        get_real(o, "low_freq_factor", 0.0, &rope->low_freq_factor, err) < 0 ||
        get_real(o, "high_freq_factor", 0.0, &rope->high_freq_factor, err) < 0 ||
        get_int(o, "original_max_position_embeddings", arch->max_length, 1, INT32_MAX, &rope->original_length, err) < 0)
        return err->code;
    if (rope->high_freq_factor <= rope->low_freq_factor)
        return wrong(o, "high_freq_factor", "more than low_freq_factor", err);
    return 0;
}

/* transformers 5 writes rope_parameters, with theta in it; before, rope_theta stood beside an optional rope_scaling. */
static int get_rope(const struct object *config, struct qp_arch *arch, struct qp_error *err)
{
    struct qp_rope_config *rope = &arch->ropes[0];
    bool current = json_is_object(json_object_get(config->json, "rope_parameters"));
    const char *key = current ? "rope_parameters" : "rope_scaling";
    if (present(config, key) && !json_is_object(json_object_get(config->json, key)))
        return wrong(config, key, "an object or null", err);
    struct object o = {json_object_get(config->json, key), config->path,
                       current ? "rope_parameters." : "rope_scaling."};
    double partial, outer;
    const char *type;
    if (get_real(config, arch->family->rope_theta.key, arch->family->rope_theta.fallback, &outer, err) < 0 ||
        get_real(&o, "rope_theta", outer, &rope->theta, err) < 0 ||
        get_real(config, "partial_rotary_factor", 1.0, &outer, err) < 0 ||
        get_real(&o, "partial_rotary_factor", outer, &partial, err) < 0 ||
        get_string(&o, "type", "default", &type, err) < 0 || get_string(&o, "rope_type", type, &type, err) < 0)
        return err->code;
    if (partial != 1.0)
        return qp_fail(err, QP_ERR_INPUT, "%s: partial_rotary_factor: found %g, only 1 is supported", o.path, partial);
    arch->rope_count = 1;
    rope->dim = arch->head_dim;
    rope->factor = 1.0;
    rope->kind = QP_ROPE_DEFAULT;
    if (strcmp(type, "default") == 0)
        return 0;
    if (strcmp(type, "llama3") == 0)
        return get_llama3(&o, arch, err);
    rope->kind = QP_ROPE_LINEAR;
    if (strcmp(type, "linear") == 0)
        return get_real(&o, "factor", 0.0, &rope->factor, err);
    return qp_fail(err, QP_ERR_INPUT, "%s: %srope_type: found %s; supported: default, linear, llama3", o.path, o.prefix,
                   type);
}

static int get_sizes(const struct object *o, struct qp_arch *arch, struct qp_error *err)
{
    int64_t heads, kv_heads, head_dim, fallback = arch->family->head_dim;
    if (get_int(o, "hidden_size", 0, 1, MAX_DIM, &arch->hidden, err) < 0 ||
        get_int(o, "intermediate_size", 0, 1, MAX_DIM, &arch->ffn, err) < 0 ||
        get_int(o, "num_hidden_layers", 0, 1, 65536, &arch->layers, err) < 0 ||
        get_int(o, "vocab_size", 0, 1, 1 << 26, &arch->vocab, err) < 0 ||
        get_int(o, "max_position_embeddings", 2048, 1, INT32_MAX, &arch->max_length, err) < 0 ||
        get_int(o, "num_attention_heads", 0, 1, 65536, &heads, err) < 0 ||
        get_int(o, "num_key_value_heads", heads, 1, 65536, &kv_heads, err) < 0 ||
        get_int(o, "head_dim", fallback ? fallback : arch->hidden / heads, 1, 65536, &head_dim, err) < 0)
        return err->code;
    if (heads % kv_heads != 0)
        return wrong(o, "num_key_value_heads", "a divisor of num_attention_heads", err);
    if (!present(o, "head_dim") && !fallback && arch->hidden % heads != 0)
        return wrong(o, "num_attention_heads", "a divisor of hidden_size, as there is no head_dim", err);
    if (head_dim % 2 != 0 || heads * head_dim > MAX_DIM)
        return wrong(o, "head_dim", "an even number for the rotary halves, and no more than 4194304 with all heads",
                     err);
    arch->heads = (int)heads;
    arch->kv_heads = (int)kv_heads;
    arch->head_dim = (int)head_dim;
    return 0;
}

/* ---- layers ---- */

/* Sizes of windows: which layers have one. A null is a window of its own meaning: none. */
struct windows {
    int64_t size;        /* 0: none */
    const json_t *types; /* `layer_types`, or NULL */
    int64_t first;       /* layer with one, where there are no types */
};

static int get_windows(const struct object *o, const struct qp_arch *arch, struct windows *out, struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    bool used, none = f->window_rule == QP_WINDOW_NONE || json_is_null(json_object_get(o->json, "sliding_window"));
    *out = (struct windows){0};
    if (get_int(o, "sliding_window", none ? 0 : f->window, 0, INT32_MAX, &out->size, err) < 0)
        return err->code;
    if (f->window_rule == QP_WINDOW_QWEN) {
        const struct qp_flag use = {"use_sliding_window", false};
        if (get_flag(o, &use, &used, err) < 0 ||
            get_int(o, "max_window_layers", 28, 0, INT32_MAX, &out->first, err) < 0)
            return err->code;
        none = none || !used;
    }
    if (none)
        out->size = 0;
    out->types = json_object_get(o->json, "layer_types");
    if (out->types && !json_is_null(out->types) &&
        (!json_is_array(out->types) || (int64_t)json_array_size(out->types) != arch->layers))
        return wrong(o, "layer_types", "a list with one entry a layer", err);
    return 0;
}

/* The window of a layer; -1 for a type that is not known. */
static int64_t window_of(const struct windows *w, int64_t layer)
{
    const char *type = json_string_value(json_array_get(w->types, (size_t)layer));
    if (!json_is_array(w->types))
        return layer >= w->first ? w->size : 0;
    if (type && strcmp(type, "sliding_attention") == 0)
        return w->size;
    return type && strcmp(type, "full_attention") == 0 ? 0 : -1;
}

static int get_layers(const struct object *o, struct qp_arch *arch, struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    struct qp_layer_config c = {.hidden = arch->hidden,
                                .ffn = arch->ffn,
                                .heads = arch->heads,
                                .kv_heads = arch->kv_heads,
                                .head_dim = arch->head_dim,
                                .eps = arch->output_norm.eps};
    struct windows windows;
    if (get_flag(o, &f->qkv_bias, &c.qkv_bias, err) < 0 || get_flag(o, &f->o_bias, &c.o_bias, err) < 0 ||
        get_flag(o, &f->mlp_bias, &c.mlp_bias, err) < 0 || get_windows(o, arch, &windows, err) < 0)
        return err->code;
    qp_auto_free const struct qp_layer_type **types = malloc((size_t)arch->layers * sizeof *types);
    if (!types)
        return qp_fail_memory(err, (size_t)arch->layers * sizeof *types, "the types of layers");
    int r = 0;
    for (int64_t i = 0; r == 0 && i < arch->layers; i++) {
        c.window = window_of(&windows, i);
        if (c.window >= arch->max_length)
            c.window = 0; /* sees everything */
        r = c.window < 0 ? wrong(o, "layer_types", "sliding_attention or full_attention for each layer", err)
                         : qp_layer_type_new(f, &c, &types[i], err);
    }
    return r < 0 ? r : qp_layer_types_keep(arch->layers, types, &arch->layer_types, err);
}

static int get_dtype(const struct object *o, enum qp_dtype *out, struct qp_error *err)
{
    static const struct {
        const char *name;
        enum qp_dtype dtype;
    } known[] = {{"float32", QP_F32}, {"bfloat16", QP_BF16}, {"float16", QP_F16}};
    const char *name;
    const char *key = present(o, "dtype") ? "dtype" : "torch_dtype";
    if (get_string(o, key, "float32", &name, err) < 0)
        return err->code;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].dtype;
            return 0;
        }
    return wrong(o, key, "float32, bfloat16 or float16", err);
}

/* What is outside of the layers. */
static int get_ends(const struct object *o, struct qp_arch *arch, struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    double eps;
    if (get_real(o, f->norm_eps.key, f->norm_eps.fallback, &eps, err) < 0 ||
        get_flag(o, &f->tied, &arch->tied, err) < 0 || get_dtype(o, &arch->dtype, err) < 0 ||
        get_token(o, "bos_token_id", arch->vocab, &arch->bos, err) < 0 ||
        get_token(o, "eos_token_id", arch->vocab, &arch->eos, err) < 0)
        return err->code;
    arch->output_norm = (struct qp_norm){f->final_norm, "output_norm", f->norm, arch->hidden, 0, (float)eps, false};
    return 0;
}

int qp_arch_parse(const json_t *config, const char *path, struct qp_arch *out, struct qp_error *err)
{
    struct qp_error ignored;
    err = err ? err : &ignored;
    struct object o = {config, path, ""};
    struct qp_arch arch = {0};
    const char *act;
    if (!json_is_object(config))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected a JSON object", path);
    if (get_family(&o, &arch.family, err) < 0)
        return err->code;
    arch.model_type = arch.family->name;
    arch.class_name = arch.family->class_name;
    arch.block = arch.family->block;
    arch.embedding = arch.family->embedding;
    arch.final_norm = arch.family->final_norm;
    arch.head = arch.family->head;
    if (get_sizes(&o, &arch, err) < 0 || get_rope(&o, &arch, err) < 0 ||
        get_string(&o, "hidden_act", "silu", &act, err) < 0 || get_ends(&o, &arch, err) < 0)
        return err->code;
    if (strcmp(act, "silu") != 0)
        return wrong(&o, "hidden_act", "\"silu\", the only activation that is supported", err);
    if (get_layers(&o, &arch, err) < 0)
        return err->code;
    *out = arch;
    return 0;
}
