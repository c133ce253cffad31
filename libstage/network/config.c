/* config.json -> struct qp_arch. Defaults are those of transformers' configuration classes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/config_read.h"

#define MAX_DIM (1 << 22) /* far above any model, and small enough that no product of two or three overflows */

/* A token id, or the first one of a list of them (Llama 3 has several ends); -1 when absent. */
static int get_token(const struct qp_config_object *o, const char *key, int64_t vocab, int32_t *out,
                     struct qp_error *err)
{
    const json_t *value = json_object_get(o->json, key);
    if (json_is_array(value))
        value = json_array_get(value, 0);
    *out = -1;
    if (!value || json_is_null(value))
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < -1 || json_integer_value(value) >= vocab)
        return qp_config_wrong(o, key, "a token id below vocab_size, or a list of them", err);
    *out = (int32_t)json_integer_value(value);
    return 0;
}

static int get_family(const struct qp_config_object *o, const struct qp_family **out, struct qp_error *err)
{
    char supported[1536] = "";
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
    for (const struct qp_wrapper *const *w = qp_wrappers(); *w; w++) {
        size_t at = strlen(supported);
        snprintf(supported + at, sizeof supported - at, ", %s (%s)", (*w)->name, (*w)->class_name);
    }
    size_t at = strlen(supported);
    snprintf(supported + at, sizeof supported - at, ", gpt2 (GPT2LMHeadModel)");
    return qp_fail(err, QP_ERR_INPUT, "%s: architecture %s (%s) is not supported; supported: %s", o->path,
                   type ? type : "without model_type", class_name ? class_name : "no class", supported);
}

static int get_sizes(const struct qp_config_object *o, struct qp_arch *arch, struct qp_error *err)
{
    int64_t heads, kv_heads, head_dim, fallback = arch->family->head_dim;
    int64_t length = arch->family->max_length, kv = arch->family->kv_heads;
    const char *ffn = arch->family->ffn_key ? arch->family->ffn_key : "intermediate_size";
    if (qp_config_int(o, "hidden_size", 0, 1, MAX_DIM, &arch->hidden, err) < 0 ||
        qp_config_int(o, ffn, 0, 1, MAX_DIM, &arch->ffn, err) < 0 ||
        qp_config_int(o, "num_hidden_layers", 0, 1, 65536, &arch->layers, err) < 0 ||
        qp_config_int(o, "vocab_size", arch->family->vocab, 1, 1 << 26, &arch->vocab, err) < 0 ||
        qp_config_int(o, "max_position_embeddings", length ? length : 2048, 1, INT32_MAX, &arch->max_length, err) < 0 ||
        qp_config_int(o, "num_attention_heads", arch->family->heads, 1, 65536, &heads, err) < 0 ||
        qp_config_int(o, "num_key_value_heads", kv ? kv : heads, 1, 65536, &kv_heads, err) < 0 ||
        qp_config_int(o, "head_dim", fallback ? fallback : arch->hidden / heads, 1, 65536, &head_dim, err) < 0)
        return err->code;
    if (heads % kv_heads != 0)
        return qp_config_wrong(o, "num_key_value_heads", "a divisor of num_attention_heads", err);
    if (!qp_config_has(o, "head_dim") && !fallback && arch->hidden % heads != 0)
        return qp_config_wrong(o, "num_attention_heads", "a divisor of hidden_size, as there is no head_dim", err);
    if (head_dim % 2 != 0 || heads * head_dim > MAX_DIM)
        return qp_config_wrong(o, "head_dim",
                               "an even number for the rotary halves, and no more than 4194304 with all heads", err);
    arch->heads = (int)heads;
    arch->kv_heads = (int)kv_heads;
    arch->head_dim = (int)head_dim;
    return 0;
}

/* ---- layers ---- */

/* Which layers have a window, and of what size. A null is a window of its own meaning: none. */
struct windows {
    int64_t size;        /* 0: no layer has one */
    const json_t *types; /* `layer_types`, or NULL */
    int64_t first;       /* layer with one, where there are no types */
    int64_t pattern;     /* each so many-th layer has none; 0: all have one */
};

static int get_qwen_windows(const struct qp_config_object *o, struct windows *w, struct qp_error *err)
{
    static const struct qp_flag use = {"use_sliding_window", false};
    bool used;
    if (qp_config_flag(o, &use, &used, err) < 0 ||
        qp_config_int(o, "max_window_layers", 28, 0, INT32_MAX, &w->first, err) < 0)
        return err->code;
    if (!used)
        w->size = 0;
    return 0;
}

static int get_windows(const struct qp_config_object *o, const struct qp_arch *arch, struct windows *w,
                       struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    const json_t *given = json_object_get(o->json, "sliding_window");
    int64_t fallback = json_is_null(given) ? 0 : f->window;
    *w = (struct windows){0};
    if (f->window_rule == QP_WINDOW_NONE)
        return 0;
    if (qp_config_int(o, "sliding_window", fallback, 0, INT32_MAX, &w->size, err) < 0 ||
        (f->window_rule == QP_WINDOW_QWEN && get_qwen_windows(o, w, err) < 0) ||
        (f->window_rule == QP_WINDOW_PATTERN &&
         qp_config_int(o, "sliding_window_pattern", f->window_pattern, 1, INT32_MAX, &w->pattern, err) < 0))
        return err->code;
    w->types = json_object_get(o->json, "layer_types");
    if (!json_is_array(w->types))
        w->types = NULL;
    if (w->types && (int64_t)json_array_size(w->types) != arch->layers)
        return qp_config_wrong(o, "layer_types", "a list with one entry a layer", err);
    return 0;
}

/* The window of a layer, 0 for none; -1 for a type that is not known. */
static int64_t window_of(const struct windows *w, int64_t layer)
{
    const char *type = json_string_value(json_array_get(w->types, (size_t)layer));
    if (!w->types)
        return layer < w->first || (w->pattern && (layer + 1) % w->pattern == 0) ? 0 : w->size;
    if (type && strcmp(type, "sliding_attention") == 0)
        return w->size;
    return type && strcmp(type, "full_attention") == 0 ? 0 : -1;
}

/* Whether a layer rotates queries and keys. */
static bool rotates(const struct qp_config_object *o, const struct qp_arch *arch, const struct windows *w,
                    int64_t layer)
{
    const json_t *list = json_object_get(o->json, "no_rope_layers");
    json_int_t interval = json_integer_value(json_object_get(o->json, "no_rope_layer_interval"));
    switch (arch->family->rope_rule) {
    case QP_ROPE_ALL:
        return true;
    case QP_ROPE_NONE:
        return false;
    case QP_ROPE_LISTED:
        if (json_is_array(list) && (int64_t)json_array_size(list) == arch->layers)
            return json_integer_value(json_array_get(list, (size_t)layer)) != 0;
        return (layer + 1) % (interval > 0 ? interval : 4) != 0;
    case QP_ROPE_SLIDING:
        return w->size == 0 || window_of(w, layer) > 0;
    }
    return true;
}

static int get_act(const struct qp_config_object *o, const struct qp_family *f, enum qp_act *out, struct qp_error *err)
{
    static const struct {
        const char *name;
        enum qp_act act;
    } known[] = {{"silu", QP_ACT_SILU},          {"gelu", QP_ACT_GELU}, {"gelu_pytorch_tanh", QP_ACT_GELU_TANH},
                 {"gelu_new", QP_ACT_GELU_TANH}, {"relu", QP_ACT_RELU}, {"relu2", QP_ACT_RELU2},
                 {"xielu", QP_ACT_XIELU}};
    const char *name;
    if (qp_config_string(o, f->act.key, f->act.fallback, &name, err) < 0)
        return err->code;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0 && (known[i].act != QP_ACT_XIELU || f->act_parameters[0])) {
            *out = known[i].act;
            return 0;
        }
    return qp_config_wrong(o, f->act.key, "silu, gelu, gelu_pytorch_tanh, gelu_new, relu, relu2 or Apertus' xielu",
                           err);
}

static int get_multipliers(const struct qp_config_object *o, const struct qp_family *f, struct qp_layer_config *c,
                           struct qp_error *err)
{
    double scale, cap, residual;
    if (qp_config_number(o, &f->scale, &scale, err) < 0 || qp_config_number(o, &f->attn_cap, &cap, err) < 0 ||
        qp_config_number(o, &f->residual_scale, &residual, err) < 0)
        return err->code;
    double value = f->scale_rule == QP_SCALE_HEAD ? (double)c->head_dim : scale;
    c->attn_scale = (float)(f->scale_rule == QP_SCALE_VALUE ? value : 1.0 / sqrt(value));
    c->attn_cap = (float)cap;
    c->residual_scale = residual == 0 ? 1 : (float)residual;
    return 0;
}

static int get_post_norm(const struct qp_config_object *o, const struct qp_family *f, bool *out, struct qp_error *err)
{
    const struct qp_flag before = {f->pre_norm_key, true};
    int r = qp_config_flag(o, &before, out, err);
    *out = !*out;
    return r;
}

static int get_layer_config(const struct qp_config_object *o, const struct qp_arch *arch, struct qp_layer_config *c,
                            struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    *c = (struct qp_layer_config){.hidden = arch->hidden,
                                  .ffn = arch->ffn,
                                  .heads = arch->heads,
                                  .kv_heads = arch->kv_heads,
                                  .head_dim = arch->head_dim,
                                  .eps = arch->output_norm.eps};
    if (qp_config_flag(o, &f->qkv_bias, &c->qkv_bias, err) < 0 || qp_config_flag(o, &f->o_bias, &c->o_bias, err) < 0 ||
        qp_config_flag(o, &f->mlp_bias, &c->mlp_bias, err) < 0 || get_act(o, f, &c->act, err) < 0 ||
        get_post_norm(o, f, &c->post_norm, err) < 0)
        return err->code;
    return get_multipliers(o, f, c, err);
}

static int get_layers(const struct qp_config_object *o, struct qp_arch *arch, struct qp_error *err)
{
    struct qp_layer_config c;
    struct windows windows;
    struct qp_rope_choice rope_of[2];
    static const struct qp_rope_choice none = {-1, -1};
    if (get_layer_config(o, arch, &c, err) < 0 || get_windows(o, arch, &windows, err) < 0 ||
        qp_config_ropes(o, arch, rope_of, err) < 0)
        return err->code;
    qp_auto_free const struct qp_layer_type **types = malloc((size_t)arch->layers * sizeof *types);
    if (!types)
        return qp_fail_memory(err, (size_t)arch->layers * sizeof *types, "the types of layers");
    int r = 0;
    for (int64_t i = 0; r == 0 && i < arch->layers; i++) {
        int64_t window = window_of(&windows, i);
        if (window < 0)
            return qp_config_wrong(o, "layer_types", "sliding_attention or full_attention for each layer", err);
        struct qp_rope_choice ropes = rotates(o, arch, &windows, i) ? rope_of[window > 0] : none;
        c.q_rope = ropes.q;
        c.k_rope = ropes.k;
        c.window = window >= arch->max_length ? 0 : window; /* a wider one sees everything */
        r = qp_layer_type_new(arch->family, &c, &types[i], err);
    }
    return r < 0 ? r : qp_layer_types_keep(arch->layers, types, &arch->layer_types, err);
}

static int get_dtype(const struct qp_config_object *o, enum qp_dtype *out, struct qp_error *err)
{
    static const struct {
        const char *name;
        enum qp_dtype dtype;
    } known[] = {{"float32", QP_F32}, {"bfloat16", QP_BF16}, {"float16", QP_F16}};
    const char *name;
    const char *key = qp_config_has(o, "dtype") ? "dtype" : "torch_dtype";
    if (qp_config_string(o, key, "float32", &name, err) < 0)
        return err->code;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].dtype;
            return 0;
        }
    return qp_config_wrong(o, key, "float32, bfloat16 or float16", err);
}

/* What lies between ids and the first layer, and between the last one and the head. */
static int get_embedding(const struct qp_config_object *o, struct qp_arch *arch, struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    bool post_norm;
    arch->embed_width = arch->hidden;
    if (get_post_norm(o, f, &post_norm, err) < 0 ||
        (f->embed_width_key &&
         qp_config_int(o, f->embed_width_key, arch->hidden, 1, MAX_DIM, &arch->embed_width, err) < 0))
        return err->code;
    arch->positions = f->positions;
    arch->position_offset = f->position_offset;
    arch->project_in = arch->embed_width == arch->hidden ? NULL : f->project_in;
    arch->project_out = arch->embed_width == arch->hidden ? NULL : f->project_out;
    if (post_norm)
        arch->output_norm = (struct qp_norm){.eps = arch->output_norm.eps};
    return 0;
}

/* What is outside of the layers. */
static int get_ends(const struct qp_config_object *o, struct qp_arch *arch, struct qp_error *err)
{
    const struct qp_family *f = arch->family;
    double embed, scale, divisor, cap, eps;
    if (qp_config_number(o, &f->embed_scale, &embed, err) < 0 ||
        qp_config_number(o, &f->logit_scale, &scale, err) < 0 ||
        qp_config_number(o, &f->logit_divisor, &divisor, err) < 0 ||
        qp_config_number(o, &f->logit_cap, &cap, err) < 0 ||
        qp_config_real(o, f->norm_eps.key, f->norm_eps.fallback, &eps, err) < 0 ||
        qp_config_flag(o, &f->tied, &arch->tied, err) < 0 || get_dtype(o, &arch->dtype, err) < 0 ||
        get_token(o, "bos_token_id", arch->vocab, &arch->bos, err) < 0 ||
        get_token(o, "eos_token_id", arch->vocab, &arch->eos, err) < 0)
        return err->code;
    arch->output_norm = (struct qp_norm){arch->final_norm, "output_norm", f->norm,     arch->hidden,
                                         f->norm_offset,   (float)eps,    f->norm_bias};
    arch->embed_sqrt = f->embed_sqrt;
    arch->embed_scale = embed == 0 ? 1 : (float)embed;
    arch->logit_scale = (float)((scale == 0 ? 1 : scale) / (divisor == 0 ? 1 : divisor));
    arch->logit_cap = (float)cap;
    return get_embedding(o, arch, err);
}

static void set_names(struct qp_arch *arch)
{
    const struct qp_family *f = arch->family;
    const struct qp_wrapper *w = arch->wrapper;
    arch->model_type = w ? w->name : f->name;
    arch->class_name = w ? w->class_name : f->class_name;
    arch->block = w ? w->block : f->block;
    arch->embedding = w ? w->embedding : f->embedding;
    arch->final_norm = w ? w->final_norm : f->final_norm;
    arch->head = w ? w->head : f->head;
}

int qp_arch_parse(const json_t *config, const char *path, struct qp_arch *out, struct qp_error *err)
{
    struct qp_error ignored;
    err = err ? err : &ignored;
    struct qp_arch arch = {0};
    json_t *text = NULL;
    if (!json_is_object(config))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected a JSON object", path);
    if (qp_config_text(config, path, &arch.wrapper, &text, err) < 0)
        return err->code;
    struct qp_config_object o = {text, path, arch.wrapper ? "text_config." : ""};
    int r = get_family(&o, &arch.family, err);
    if (r == 0) {
        set_names(&arch);
        r = get_sizes(&o, &arch, err) < 0 || get_ends(&o, &arch, err) < 0 ? err->code : get_layers(&o, &arch, err);
    }
    json_decref(text);
    if (r == 0)
        *out = arch;
    return r;
}
