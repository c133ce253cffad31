/* GGUF metadata -> config.json. Keys: gguf-py's constants.py; what they mean: llama.cpp's llama-hparams. */
#include "libstage/network/checkpoint_gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/network/families/family.h"

struct reader {
    const struct qp_gguf *file;
    const struct qp_family *family;
    json_t *config;
};

/* The value of "llama.KEY", or NULL; for "gemma3" in place of "llama" where that is the architecture. */
static json_t *get(const struct reader *r, const char *key)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", r->family->gguf, key);
    return json_object_get(r->file->metadata, name);
}

static int wrong(const struct reader *r, const char *key, const char *expected, struct qp_error *err)
{
    return qp_fail(err, QP_ERR_INPUT, "%s: %s.%s: found %s, expected %s", r->file->path, r->family->gguf, key,
                   get(r, key) ? "something else" : "nothing", expected);
}

/* config[name] = the number at `key`; ranges are checked when the config is parsed. */
static int copy_number(const struct reader *r, const char *key, const char *name, bool required, struct qp_error *err)
{
    json_t *value = get(r, key);
    if (!value && !required)
        return 0;
    if (!json_is_number(value))
        return wrong(r, key, "one number", err);
    json_object_set(r->config, name, value);
    return 0;
}

static void copy_token(const struct reader *r, const char *key, const char *name)
{
    json_t *value = json_object_get(r->file->metadata, key);
    if (json_is_integer(value))
        json_object_set(r->config, name, value);
}

/* Metadata has floats of 32 bits; the shortest decimal of 6 digits is what the original config.json had. */
static double shortest(double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", value);
    return strtod(text, NULL);
}

/* The same for a number that is not whole. */
static int copy_real(const struct reader *r, const char *key, const char *name, bool required, struct qp_error *err)
{
    if (copy_number(r, key, name, required, err) < 0)
        return err->code;
    if (get(r, key))
        json_object_set_new(r->config, name, json_real(shortest(json_number_value(get(r, key)))));
    return 0;
}

/* Of families with one GGUF name the first is taken, or the first with windows for a file that has them. */
static bool fits(const struct reader *r, const struct qp_family *f, const char *found)
{
    char name[128];
    if (strcmp(found, f->gguf) != 0)
        return false;
    snprintf(name, sizeof name, "%s.attention.sliding_window", f->gguf);
    return f->window_rule != QP_WINDOW_NONE || json_number_value(json_object_get(r->file->metadata, name)) == 0;
}

static int find_family(struct reader *r, struct qp_error *err)
{
    bool windows = false;
    const char *found = json_string_value(json_object_get(r->file->metadata, "general.architecture"));
    char supported[256] = "";
    for (const struct qp_family *const *f = qp_families(); *f; f++) {
        if (!(*f)->gguf)
            continue;
        if (found && fits(r, *f, found)) {
            r->family = *f;
            return 0;
        }
        windows = windows || (found && strcmp(found, (*f)->gguf) == 0);
        size_t at = strlen(supported);
        if (!strstr(supported, (*f)->gguf))
            snprintf(supported + at, sizeof supported - at, "%s%s", at ? ", " : "", (*f)->gguf);
    }
    if (windows)
        return qp_fail(
            err, QP_ERR_INPUT,
            "%s: %s.attention.sliding_window: windows of this architecture are not supported; start from the "
            "Hugging Face checkpoint",
            r->file->path, found);
    return qp_fail(err, QP_ERR_INPUT, "%s: general.architecture: %s is not supported; supported: %s", r->file->path,
                   found ? found : "nothing", supported);
}

/* F32 or F16 when all matrices are that, else BF16: nearest to what a quantized GGUF was made from. */
static const char *dtype_name(const struct qp_gguf *file)
{
    bool all_f32 = true, all_f16 = true;
    for (size_t i = 0; i < file->count; i++) {
        if (file->tensors[i].rank < 2)
            continue;
        all_f32 = all_f32 && file->tensors[i].type == QP_GGUF_F32;
        all_f16 = all_f16 && file->tensors[i].type == QP_GGUF_F16;
    }
    return all_f32 ? "float32" : all_f16 ? "float16" : "bfloat16";
}

/* Of norms; a family without a key for it has its own number. */
static int add_eps(const struct reader *r, struct qp_error *err)
{
    const struct qp_family *f = r->family;
    const char *key = f->norm == QP_NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    char expected[64];
    if (f->norm_eps.key)
        return copy_real(r, key, f->norm_eps.key, true, err);
    snprintf(expected, sizeof expected, "%g, for %s has no other", f->norm_eps.fallback, f->class_name);
    double found = json_number_value(get(r, key));
    return fabs(found - f->norm_eps.fallback) <= 0.01 * f->norm_eps.fallback ? 0 : wrong(r, key, expected, err);
}

static int add_sizes(const struct reader *r, struct qp_error *err)
{
    const char *ffn = r->family->ffn_key ? r->family->ffn_key : "intermediate_size";
    if (copy_number(r, "embedding_length", "hidden_size", true, err) < 0 ||
        copy_number(r, "feed_forward_length", ffn, true, err) < 0 ||
        copy_number(r, "block_count", "num_hidden_layers", true, err) < 0 ||
        copy_number(r, "context_length", "max_position_embeddings", true, err) < 0 ||
        copy_number(r, "attention.head_count", "num_attention_heads", true, err) < 0 ||
        copy_number(r, "attention.head_count", "num_key_value_heads", true, err) < 0 ||
        copy_number(r, "attention.head_count_kv", "num_key_value_heads", false, err) < 0 ||
        copy_number(r, "attention.key_length", "head_dim", false, err) < 0 || add_eps(r, err) < 0)
        return err->code;
    if (json_integer_value(get(r, "expert_count")) > 0)
        return wrong(r, "expert_count", "0: mixtures of experts are not supported", err);

    const struct qp_gguf_tensor *embedding = qp_gguf_find(r->file, "token_embd.weight");
    if (!embedding || embedding->rank != 2)
        return qp_fail(err, QP_ERR_INPUT, "%s: token_embd.weight: expected a matrix of that name", r->file->path);
    json_object_set_new(r->config, "vocab_size", json_integer(embedding->shape[0]));
    return 0;
}

static double config_number(const struct reader *r, const char *name)
{
    return json_number_value(json_object_get(r->config, name));
}

/* transformers fails at a pattern without windows, but not at a list of layers that have none. */
static void add_no_windows(const struct reader *r, bool mixed)
{
    double layers = config_number(r, "num_hidden_layers");
    json_t *types = mixed ? json_array() : NULL;
    json_object_set_new(r->config, "sliding_window", json_null());
    for (int i = 0; mixed && i < layers && i < 65536; i++)
        json_array_append_new(types, json_string("full_attention"));
    if (mixed)
        json_object_set_new(r->config, "layer_types", types);
}

/* Which layers have a window: one number n for all but each n-th, or a flag a layer; what the family does if neither is
 * there. Without a size, or with 0, no layer has one, which a family that mixes both kinds of layers can do without
 * only if it says what they rotate then. */
static int add_windows(const struct reader *r, struct qp_error *err)
{
    static const char key[] = "attention.sliding_window_pattern";
    const json_t *pattern = get(r, key), *flag;
    bool mixed = r->family->window_rule == QP_WINDOW_PATTERN;
    bool needed = mixed && r->family->rope_rule != QP_ROPE_SLIDING;
    size_t i;
    if (!mixed && r->family->window_rule != QP_WINDOW_ALL)
        return 0;
    if (copy_number(r, "attention.sliding_window", "sliding_window", needed, err) < 0)
        return err->code;
    if (config_number(r, "sliding_window") == 0) {
        add_no_windows(r, mixed);
        return 0;
    }
    if (!json_is_array(pattern) && copy_number(r, key, "sliding_window_pattern", false, err) < 0)
        return err->code;
    if (!json_is_array(pattern))
        return 0;
    json_t *types = json_array();
    json_object_set_new(r->config, "layer_types", types);
    json_array_foreach(pattern, i, flag) {
        if (!json_is_boolean(flag))
            return wrong(r, key, "one number, or true or false for each layer", err);
        json_array_append_new(types, json_string(json_is_true(flag) ? "sliding_attention" : "full_attention"));
    }
    return 0;
}

/* What scores are multiplied with, where the family does not take it from the heads. A GGUF of Gemma leaves it out:
 * the largest models have hidden / heads there, which llama.cpp tells by their layers, all others the heads' size. */
static int add_scale(const struct reader *r, struct qp_error *err)
{
    const struct qp_family *f = r->family;
    json_t *scale = get(r, "attention.scale");
    if (f->scale_rule == QP_SCALE_VALUE)
        return copy_real(r, "attention.scale", f->scale.key, true, err);
    if (f->scale_rule != QP_SCALE_RSQRT)
        return 0;
    double heads = config_number(r, "num_attention_heads"), value = config_number(r, "head_dim");
    if (scale && !(json_number_value(scale) > 0))
        return wrong(r, "attention.scale", "a number above 0", err);
    if (scale)
        value = shortest(1 / (json_number_value(scale) * json_number_value(scale)));
    else if (f->gguf_wide_layers && config_number(r, "num_hidden_layers") == (double)f->gguf_wide_layers && heads > 0)
        value = config_number(r, "hidden_size") / heads;
    else if (value == 0)
        value = (double)f->head_dim;
    bool whole = value == floor(value) && value < 1e9; /* transformers refuses 256.0 there */
    json_object_set_new(r->config, f->scale.key, whole ? json_integer((json_int_t)value) : json_real(value));
    return 0;
}

/* The caps and multipliers that the family has, and its scale of scores. */
static int add_multipliers(const struct reader *r, struct qp_error *err)
{
    const struct qp_family *f = r->family;
    const struct {
        const char *key, *name;
    } all[] = {
        {"attn_logit_softcapping", f->attn_cap.key}, {"final_logit_softcapping", f->logit_cap.key},
        {"embedding_scale", f->embed_scale.key},     {"residual_scale", f->residual_scale.key},
        {"logit_scale", f->logit_scale.key},         {"logit_scale", f->logit_divisor.key},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].name && copy_real(r, all[i].key, all[i].name, false, err) < 0)
            return err->code;
    return add_scale(r, err);
}

static int64_t head_dim_of(const struct reader *r)
{
    double dim = config_number(r, "head_dim"), heads = config_number(r, "num_attention_heads");
    return (int64_t)(dim > 0 ? dim : heads > 0 ? config_number(r, "hidden_size") / heads : 0);
}

/* Numbers of a head that are rotated, where the family may leave some alone; the factor gives them back exactly. */
static void add_rotary(const struct reader *r)
{
    int64_t dim = head_dim_of(r), count = json_integer_value(get(r, "rope.dimension_count"));
    if (count < 1 || count > dim || (count == dim && r->family->rotary == 0))
        return;
    double factor = shortest((double)count / (double)dim);
    if ((int64_t)((double)dim * factor) != count)
        factor = ((double)count + 0.5) / (double)dim;
    json_object_set_new(r->config, "partial_rotary_factor", json_real(factor));
}

static json_t *factors_of(const struct reader *r, const char *name)
{
    enum { MOST = 65536 };
    const struct qp_gguf_tensor *t = qp_gguf_find(r->file, name);
    qp_auto_free float *factors = t && t->rank == 1 && t->elements <= MOST ? malloc(MOST * sizeof *factors) : NULL;
    json_t *list = factors ? json_array() : NULL;
    if (!list)
        return NULL;
    qp_gguf_rows(r->file, t, 0, 1, factors);
    for (int64_t i = 0; i < t->elements; i++)
        json_array_append_new(list, json_real(shortest((double)factors[i])));
    return list;
}

/* Phi 3's longrope: a factor for each pair, and the length from which the long ones count; 1 when there is one. */
static int add_longrope(const struct reader *r, struct qp_error *err)
{
    static const char key[] = "rope.scaling.original_context_length";
    if (!qp_gguf_find(r->file, "rope_factors_long.weight"))
        return 0;
    json_t *longer = factors_of(r, "rope_factors_long.weight"), *shorter = factors_of(r, "rope_factors_short.weight");
    json_object_set_new(
        r->config, "rope_scaling",
        json_pack("{s:s, s:o?, s:o?}", "rope_type", "longrope", "long_factor", longer, "short_factor", shorter));
    int code = copy_number(r, key, "original_max_position_embeddings", true, err);
    return code < 0 ? code : 1;
}

/* llama.cpp stores rope_type llama3 as factors that divide each pair's frequency. All Llama 3 models have the same
 * low and high factors (Llama 3.1 release), so the scaling is named again and then compared with every factor. */
static int add_rope_factors(const struct reader *r, const struct qp_gguf_tensor *t, struct qp_error *err)
{
    json_t *length = get(r, "rope.scaling.original_context_length");
    int64_t head_dim = head_dim_of(r);
    if (t->rank != 1 || head_dim < 2 || head_dim > 65536 || t->elements != head_dim / 2)
        return qp_fail(err, QP_ERR_INPUT, "%s: %s: expected one factor for each of %lld rotary pairs", r->file->path,
                       t->name, (long long)head_dim / 2);
    qp_auto_free float *factors = malloc((size_t)t->elements * sizeof *factors);
    if (!factors)
        return qp_fail_memory(err, (unsigned long long)t->elements * sizeof *factors, t->name);
    qp_gguf_rows(r->file, t, 0, 1, factors);

    double theta = json_number_value(json_object_get(r->config, "rope_theta"));
    struct qp_rope_config plain = {.kind = QP_ROPE_DEFAULT, .theta = theta, .dim = (int)head_dim};
    struct qp_rope_config llama3 = {
        .kind = QP_ROPE_LLAMA3,
        .theta = theta,
        .factor = shortest(factors[t->elements - 1]),
        .low_freq_factor = 1.0,
        .high_freq_factor = 4.0,
        .original_length = json_is_integer(length) ? json_integer_value(length) : 8192,
        .dim = (int)head_dim,
    };
    for (int i = 0; i < t->elements; i++) {
        double expected = qp_rope_frequency(&plain, 1, i) / qp_rope_frequency(&llama3, 1, i);
        if (!(fabs(factors[i] - expected) <= 1e-4 * expected))
            return qp_fail(err, QP_ERR_INPUT,
                           "%s: %s: factor %d is %g; the rope_type llama3 of Llama 3 models has %g there, and nothing "
                           "else is supported: start from the Hugging Face checkpoint",
                           r->file->path, t->name, i, (double)factors[i], expected);
    }
    json_object_set_new(r->config, "rope_scaling",
                        json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", llama3.factor,
                                  "low_freq_factor", llama3.low_freq_factor, "high_freq_factor",
                                  llama3.high_freq_factor, "original_max_position_embeddings",
                                  (json_int_t)llama3.original_length));
    return 0;
}

static int add_rope(const struct reader *r, struct qp_error *err)
{
    const char *sliding = r->family->rope_theta_sliding.key;
    if (r->family->rope_rule == QP_ROPE_NONE)
        return 0;
    json_object_set_new(r->config, "rope_theta", json_real(10000.0));
    if (copy_number(r, "rope.freq_base", "rope_theta", false, err) < 0 ||
        (sliding && copy_number(r, "rope.freq_base_swa", sliding, false, err) < 0))
        return err->code;
    json_object_set_new(r->config, "rope_scaling", json_null());
    add_rotary(r);
    int longrope = add_longrope(r, err);
    if (longrope != 0)
        return longrope < 0 ? longrope : 0;
    const struct qp_gguf_tensor *factors = qp_gguf_find(r->file, "rope_freqs.weight");
    if (factors)
        return add_rope_factors(r, factors, err);

    const char *type = json_string_value(get(r, "rope.scaling.type"));
    json_t *factor = get(r, "rope.scaling.factor");
    if (!factor && (factor = get(r, "rope.scale_linear"))) /* the key of GGUF v2 files */
        type = "linear";
    if (type && strcmp(type, "none") != 0)
        json_object_set_new(r->config, "rope_scaling", json_pack("{s:s, s:O?}", "rope_type", type, "factor", factor));
    return 0;
}

/* A key that says of several linears whether they have biases goes by the last of them here. */
static void add_bias(const struct reader *r, const struct qp_flag *flag, const char *module)
{
    char name[128];
    snprintf(name, sizeof name, "blk.0.%s.bias", module);
    if (flag->key)
        json_object_set_new(r->config, flag->key, json_boolean(qp_gguf_find(r->file, name)));
}

static int add_all(const struct reader *r, struct qp_error *err)
{
    if (add_sizes(r, err) < 0 || add_rope(r, err) < 0 || add_windows(r, err) < 0 || add_multipliers(r, err) < 0)
        return err->code;
    bool tied = !qp_gguf_find(r->file, "output.weight");
    const struct qp_family *f = r->family;
    json_object_set_new(r->config, "tie_word_embeddings", json_boolean(tied));
    add_bias(r, &f->o_bias, f->o.gguf);
    add_bias(r, &f->qkv_bias, f->q.gguf ? f->q.gguf : f->qkv.gguf);
    add_bias(r, &f->mlp_bias, f->down.gguf);
    json_object_set_new(r->config, "torch_dtype", json_string(dtype_name(r->file)));
    json_object_set_new(r->config, "model_type", json_string(r->family->name));
    json_object_set_new(r->config, "architectures", json_pack("[s]", r->family->class_name));
    json_object_set_new(r->config, f->act.key, json_string(f->gguf_act ? f->gguf_act : f->act.fallback));
    copy_token(r, "tokenizer.ggml.bos_token_id", "bos_token_id");
    copy_token(r, "tokenizer.ggml.eos_token_id", "eos_token_id");
    if (f->gguf_act) /* the class has a padding token of its own by default */
        json_object_set_new(r->config, "pad_token_id", json_null());
    copy_token(r, "tokenizer.ggml.padding_token_id", "pad_token_id");
    return 0;
}

int qp_gguf_config(const struct qp_gguf *file, json_t **out, struct qp_error *err)
{
    struct qp_error ignored;
    err = err ? err : &ignored;
    qp_auto_json json_t *config = json_object();
    struct reader r = {file, NULL, config};
    if (!config)
        return qp_fail_memory(err, 0, file->path);
    if (find_family(&r, err) < 0 || add_all(&r, err) < 0)
        return err->code;
    *out = json_incref(config);
    return 0;
}
