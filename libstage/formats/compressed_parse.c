#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/patterns.h"

/* Keys and words: QuantizationConfig, QuantizationScheme and QuantizationArgs of compressed-tensors 0.20. */

#define MAX_GROUPS 1000
#define WHERE 256

/* A reading of a config; `where` is the key at hand. */
struct reading {
    const char *path;
    char where[WHERE];
    struct qp_error *err;
};

/* An error at the key `key` of where the reading is ("" for that itself). */
__attribute__((format(printf, 3, 4))) static int bad(struct reading *r, const char *key, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    qp_vfail(r->err, QP_ERR_INPUT, format, args);
    va_end(args);
    return qp_wrap(r->err, "%s: quantization_config%s%s%s", r->path, r->where, *key ? "." : "", key);
}

/* Sets a key of a mapping of ours to a new reference. */
static int set(struct reading *r, json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0 ? 0 : qp_fail_memory(r->err, 0, r->path);
}

static bool absent(const json_t *value)
{
    return !value || json_is_null(value) ||
           ((json_is_object(value) || json_is_array(value)) && json_object_size(value) + json_array_size(value) == 0);
}

/* The string at `key`, "" when it is absent or something else. */
static const char *word(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* What neither side can have: the features of the library that are not read. */
static int check_args(struct reading *r, const json_t *args)
{
    const char *order = word(args, "actorder");
    if (!json_is_object(args))
        return bad(r, "", "expected a mapping");
    if (strcmp(order, "group") == 0 || strcmp(order, "dynamic") == 0)
        return bad(r, "actorder", "columns in activation order cannot be read");
    return 0;
}

static json_int_t integer(const json_t *object, const char *key, json_int_t fallback)
{
    const json_t *value = json_object_get(object, key);
    return absent(value) ? fallback : json_integer_value(value);
}

/* Our name of the floats that `bits`, `group_size` and `scale_dtype` say; NULL when there is none. */
static const char *float_name(const json_t *args, json_int_t bits, const char *scale)
{
    const json_int_t group = integer(args, "group_size", 0);
    const bool e8m0 = strcmp(scale, "torch.uint8") == 0, e4m3 = strcmp(scale, "torch.float8_e4m3fn") == 0;
    if (bits == 4 && group == 16 && (e4m3 || !*scale))
        return "nvfp4";
    if (bits != 8 && group == 32 && (e8m0 || !*scale))
        return bits == 4 ? "mxfp4" : bits == 6 ? "mxfp6_e2m3" : NULL;
    if (bits == 8 && group == 32 && e8m0)
        return "mxfp8";
    return bits == 8 && !*scale ? "fp8_e4m3" : NULL;
}

static int read_float(struct reading *r, const json_t *args, json_int_t bits, json_t *spec)
{
    const char *scale = word(args, "scale_dtype"), *name = float_name(args, bits, scale);
    if (name)
        return set(r, spec, "format", json_string(name));
    if (bits != 4 && bits != 6 && bits != 8)
        return bad(r, "num_bits", "expected 4, 6 or 8 for type float");
    if (*scale)
        return bad(r, "scale_dtype", "%.40s scales of %lld bits in groups of %lld cannot be read", scale,
                   (long long)bits, (long long)integer(args, "group_size", 0));
    return bad(r, "group_size", "expected %s for floats of %lld bits", bits == 4 ? "16 or 32" : "32", (long long)bits);
}

static int read_integer(struct reading *r, const json_t *args, json_int_t bits, json_t *spec)
{
    char name[16];
    const json_t *symmetric = json_object_get(args, "symmetric");
    if (bits < 2 || bits > 8)
        return bad(r, "num_bits", "expected 2 to 8 for type int");
    if (!absent(json_object_get(args, "scale_dtype")))
        return bad(r, "scale_dtype", "scales of integers with a type of their own cannot be read");
    snprintf(name, sizeof name, "int%d", (int)bits);
    int result = set(r, spec, "format", json_string(name));
    return result < 0 ? result : set(r, spec, "symmetric", json_boolean(!json_is_false(symmetric)));
}

/* Sets `format`, and of integers `symmetric`, in a spec of ours. */
static int read_format(struct reading *r, const json_t *args, json_t *spec)
{
    const json_t *symmetric = json_object_get(args, "symmetric");
    const json_int_t bits = integer(args, "num_bits", 8);
    const char *type = json_object_get(args, "type") ? word(args, "type") : "int";
    if (symmetric && !json_is_boolean(symmetric))
        return bad(r, "symmetric", "expected true or false");
    if (strcmp(type, "int") == 0)
        return read_integer(r, args, bits, spec);
    if (strcmp(type, "float") != 0)
        return bad(r, "type", "expected \"int\" or \"float\"");
    if (json_is_false(symmetric))
        return bad(r, "symmetric", "expected true for type float");
    return read_float(r, args, bits, spec);
}

/* The strategy, as the library infers it when it is left out. */
static const char *strategy_of(const json_t *args)
{
    const json_int_t group = integer(args, "group_size", 0);
    const char *name = word(args, "strategy");
    return *name ? name : group == 0 ? "tensor" : group < 0 ? "channel" : "group";
}

/* Whether the format implies its groups; the strategy has to be theirs then. */
static int read_implied(struct reading *r, const json_t *args, const json_t *spec)
{
    const char *format = word(spec, "format");
    const char *expected = strcmp(format, "nvfp4") == 0 ? "tensor_group" : "group";
    if (strcmp(format, "nvfp4") != 0 && strncmp(format, "mx", 2) != 0)
        return 0;
    if (strcmp(strategy_of(args), expected) != 0)
        return bad(r, "strategy", "expected \"%s\" for %s", expected, format);
    return 1;
}

static int read_group_size(struct reading *r, const json_t *args, json_t *spec)
{
    const json_t *group = json_object_get(args, "group_size");
    return json_is_integer(group) ? set(r, spec, "group", json_incref((json_t *)group))
                                  : bad(r, "group_size", "expected an integer");
}

static int read_weights(struct reading *r, const json_t *args, json_t *spec)
{
    if (check_args(r, args) < 0 || read_format(r, args, spec) < 0)
        return r->err->code;
    const char *name = strategy_of(args);
    const json_t *block = json_object_get(args, "block_structure");
    int implied = read_implied(r, args, spec);
    if (implied != 0)
        return implied < 0 ? implied : 0;
    if (strcmp(name, "group") == 0)
        return read_group_size(r, args, spec);
    if (strcmp(name, "block") == 0)
        return json_is_array(block) ? set(r, spec, "block", json_incref((json_t *)block))
                                    : bad(r, "block_structure", "expected rows and columns");
    if (strcmp(name, "channel") != 0 && strcmp(name, "tensor") != 0)
        return bad(r, "strategy", "expected \"tensor\", \"channel\", \"group\" or \"block\"");
    return set(r, spec, "granularity", json_string(name));
}

/* NVFP4's groups are dynamic below a fixed global scale, all others' whole or not at all. */
static int read_dynamic(struct reading *r, const json_t *args, json_t *spec)
{
    const json_t *dynamic = json_object_get(args, "dynamic");
    const char *text = json_is_string(dynamic) ? json_string_value(dynamic) : "";
    if (strcmp(word(spec, "format"), "nvfp4") == 0)
        return strcmp(text, "local") == 0 ? 0 : bad(r, "dynamic", "expected \"local\" for nvfp4 activations");
    if (dynamic && !json_is_boolean(dynamic))
        return bad(r, "dynamic", "expected true or false");
    return json_is_true(dynamic) ? 0 : set(r, spec, "dynamic", json_false());
}

static int read_activations(struct reading *r, const json_t *args, json_t *spec)
{
    if (check_args(r, args) < 0 || read_format(r, args, spec) < 0 || read_dynamic(r, args, spec) < 0)
        return r->err->code;
    const char *name = strategy_of(args);
    int implied = read_implied(r, args, spec);
    if (implied != 0)
        return implied < 0 ? implied : 0;
    if (strcmp(name, "group") == 0)
        return read_group_size(r, args, spec);
    if (strcmp(name, "token") != 0 && strcmp(name, "tensor") != 0)
        return bad(r, "strategy", "expected \"token\", \"tensor\" or \"group\"");
    return set(r, spec, "granularity", json_string(name));
}

/* The scheme's kv_cache, if there is one: a single fixed scale for keys, and one for values. */
static int read_kv_cache(struct reading *r, const json_t *args, json_t *mapping)
{
    if (absent(args))
        return 0;
    qp_auto_json json_t *spec = json_object();
    snprintf(r->where, sizeof r->where, ".kv_cache_scheme");
    if (check_args(r, args) < 0 || read_format(r, args, spec) < 0)
        return r->err->code;
    if (strcmp(strategy_of(args), "tensor") != 0)
        return bad(r, "strategy", "expected \"tensor\"");
    if (json_object_get(args, "dynamic") && !json_is_false(json_object_get(args, "dynamic")))
        return bad(r, "dynamic", "expected false");
    if (json_is_false(json_object_get(spec, "symmetric")))
        return bad(r, "symmetric", "expected true");
    r->where[0] = '\0';
    return set(r, mapping, "kv_cache", json_pack("{s:s}", "format", word(spec, "format")));
}

/* Reads one side of a group into `linear`; a side that is absent becomes bf16. */
static int read_side(struct reading *r, const json_t *group, const char *key, json_t *linear)
{
    const json_t *args = json_object_get(group, key);
    bool weights = strcmp(key, "weights") == 0;
    json_t *spec = json_object();
    if (set(r, linear, weights ? key : "activations", spec) < 0)
        return r->err->code;
    if (absent(args))
        return set(r, spec, "format", json_string("bf16"));
    size_t length = strlen(r->where);
    snprintf(r->where + length, sizeof r->where - length, ".%s", key);
    int result = weights ? read_weights(r, args, spec) : read_activations(r, args, spec);
    r->where[length] = '\0';
    return result;
}

/* Our pattern for a module name or an expression of theirs; NULL with an error at `key`. */
static char *read_pattern(struct reading *r, const char *key, const json_t *value)
{
    const char *text = json_string_value(value);
    bool is_regex = text && strncmp(text, "re:", 3) == 0;
    char *pattern = !text ? NULL : is_regex ? qp_pattern_from_regex(text + 3) : qp_pattern_of_name(text);
    if (!pattern)
        bad(r, key, "'%.200s' cannot be read; expected the name of a module, or a simple regular expression of names",
            text ? text : "something that is no string");
    return pattern;
}

/* Adds what a target stands for: "Linear" is the base, anything else a rule. Rules for exact names come first. */
static int read_target(struct reading *r, const json_t *target, const json_t *linear, json_t *mapping)
{
    json_t *rules = json_object_get(mapping, "rules");
    if (json_is_string(target) && strcmp(json_string_value(target), "Linear") == 0)
        return json_object_update(mapping, (json_t *)linear) == 0 ? 0 : qp_fail_memory(r->err, 0, r->path);
    qp_auto_free char *pattern = read_pattern(r, "targets", target);
    if (!pattern)
        return r->err->code;
    bool is_regex = strncmp(json_string_value(target), "re:", 3) == 0;
    json_t *rule = json_deep_copy(linear);
    if (!rule || json_array_insert_new(rules, is_regex ? json_array_size(rules) : 0, rule) < 0)
        return qp_fail_memory(r->err, 0, r->path);
    return set(r, rule, "match", json_string(pattern));
}

static int read_group(struct reading *r, const char *name, const json_t *group, json_t *mapping)
{
    qp_auto_json json_t *linear = json_object();
    snprintf(r->where, sizeof r->where, ".config_groups.%.100s", name);
    if (!json_is_object(group))
        return bad(r, "", "expected a mapping");
    if (!absent(json_object_get(group, "output_activations")))
        return bad(r, "output_activations", "quantized outputs cannot be read");
    if (read_side(r, group, "weights", linear) < 0 || read_side(r, group, "input_activations", linear) < 0)
        return r->err->code;
    const json_t *targets = json_object_get(group, "targets");
    if (!json_is_array(targets) || absent(targets))
        return bad(r, "targets", "expected a list of modules");
    for (size_t i = 0; i < json_array_size(targets); i++)
        if (read_target(r, json_array_get(targets, i), linear, mapping) < 0)
            return r->err->code;
    return 0;
}

/* group_2 before group_10, whatever the order in the file. */
static int by_number(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    if (strlen(x) != strlen(y))
        return strlen(x) < strlen(y) ? -1 : 1;
    return strcmp(x, y);
}

static int read_groups(struct reading *r, const json_t *groups, json_t *mapping)
{
    const char *names[MAX_GROUPS], *name;
    size_t count = 0;
    json_t *group;
    if (!json_is_object(groups) || absent(groups) || json_object_size(groups) > MAX_GROUPS)
        return bad(r, "config_groups", "expected a mapping of 1 to %d groups", MAX_GROUPS);
    json_object_foreach((json_t *)groups, name, group)
        names[count++] = name;
    qsort(names, count, sizeof *names, by_number);
    for (size_t i = 0; i < count; i++)
        if (read_group(r, names[i], json_object_get(groups, names[i]), mapping) < 0)
            return r->err->code;
    r->where[0] = '\0';
    return 0;
}

static int read_ignore(struct reading *r, const json_t *list, json_t *ignore)
{
    if (list && !json_is_null(list) && !json_is_array(list))
        return bad(r, "ignore", "expected a list of modules");
    for (size_t i = 0; i < json_array_size(list); i++) {
        qp_auto_free char *pattern = read_pattern(r, "ignore", json_array_get(list, i));
        if (!pattern)
            return r->err->code;
        if (json_array_append_new(ignore, json_string(pattern)) < 0)
            return qp_fail_memory(r->err, 0, r->path);
    }
    return 0;
}

static int check_top(struct reading *r, const json_t *config)
{
    const char *status = word(config, "quantization_status"), *sparsity;
    sparsity = word(json_object_get(config, "sparsity_config"), "format");
    if (!json_is_object(config))
        return bad(r, "", "expected a mapping");
    if (strcmp(word(config, "quant_method"), "compressed-tensors") != 0)
        return bad(r, "quant_method", "only compressed-tensors can be read");
    if (*status && strcmp(status, "compressed") != 0)
        return bad(r, "quantization_status", "only compressed checkpoints can be read");
    if (*sparsity && strcmp(sparsity, "dense") != 0)
        return bad(r, "sparsity_config", "sparse checkpoints cannot be read");
    if (!absent(json_object_get(config, "transform_config")))
        return bad(r, "transform_config", "rotated checkpoints cannot be read");
    return 0;
}

int qp_compressed_parse(const json_t *config, const char *path, struct qp_scheme **out, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    struct reading r = {.path = path, .err = err};
    qp_auto_json json_t *mapping = NULL;
    if (check_top(&r, config) < 0)
        return err->code;
    const char *format = word(config, "format");
    mapping = json_pack("{s:s, s:[], s:[]}", "name", *format ? format : "compressed-tensors", "ignore", "rules");
    if (!mapping)
        return qp_fail_memory(err, 0, path);
    if (read_groups(&r, json_object_get(config, "config_groups"), mapping) < 0 ||
        read_kv_cache(&r, json_object_get(config, "kv_cache_scheme"), mapping) < 0 ||
        read_ignore(&r, json_object_get(config, "ignore"), json_object_get(mapping, "ignore")) < 0)
        return err->code;
    if (qp_scheme_parse(mapping, out, err) < 0)
        return qp_wrap(err, "%s: quantization_config, read as a scheme", path);
    return 0;
}
