#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/patterns.h"

/* Keys and words: QuantizationConfig, QuantizationScheme and QuantizationArgs of compressed-tensors. */

#define LAYOUT_VERSION "0.20.0"
#define MAX_GROUPS 1000
#define WHERE 256

/* ---- a scheme to a config ---- */

static const char *strategy(const struct qp_quant_spec *spec)
{
    static const char *const names[] = {
        [QP_PER_TENSOR] = "tensor", [QP_PER_CHANNEL] = "channel", [QP_PER_GROUP] = "group", [QP_PER_TOKEN] = "token"};
    return names[spec->granularity];
}

/* All arguments are written, as the library did up to 0.19: any version reads them. */
static json_t *make_args(const struct qp_quant_spec *spec, bool weights)
{
    if (!spec->enabled)
        return json_null();
    json_t *group = spec->granularity == QP_PER_GROUP ? json_integer(spec->group) : json_null();
    return json_pack("{s:n, s:n, s:b, s:o, s:i, s:s?, s:{}, s:n, s:s, s:b, s:s, s:s?}", "actorder", "block_structure",
                     "dynamic", !weights, "group_size", group, "num_bits", spec->grid.bits, "observer",
                     weights ? "memoryless_minmax" : NULL, "observer_kwargs", "scale_dtype", "strategy", strategy(spec),
                     "symmetric", spec->grid.symmetric, "type", spec->grid.codes == QP_I8 ? "int" : "float", "zp_dtype",
                     spec->grid.symmetric ? NULL : "torch.int8");
}

static int add_group(json_t *groups, size_t index, const struct qp_linear_scheme *linear, const char *target)
{
    char name[32];
    snprintf(name, sizeof name, "group_%zu", index);
    return json_object_set_new(groups, name,
                               json_pack("{s:s, s:o, s:n, s:[s], s:o}", "format", qp_compressed_format(linear),
                                         "input_activations", make_args(&linear->activations, false),
                                         "output_activations", "targets", target, "weights",
                                         make_args(&linear->weights, true)));
}

/* Appends `more` to *text (NULL at first), after `separator` when there is something already. */
static bool append(char **text, const char *separator, const char *more)
{
    char *grown = *text ? qp_format("%s%s%s", *text, separator, more) : strdup(more);
    free(*text);
    *text = grown;
    return grown != NULL;
}

/* Adds the groups of the rules. compressed-tensors tries expressions in alphabetical order, vLLM in the order of the
 * groups: so each expression excludes what the rules before it match, and the order no longer matters. */
static bool add_rules(json_t *groups, const struct qp_scheme *scheme)
{
    qp_auto_free char *former = NULL;
    for (size_t i = 0; i < scheme->rule_count; i++) {
        const struct qp_scheme_rule *rule = &scheme->rules[i];
        qp_auto_free char *regex = qp_pattern_to_regex(rule->match);
        qp_auto_free char *target = NULL;
        if (regex)
            target = former ? qp_format("re:(?!(?:%s)$)%s$", former, regex) : qp_format("re:%s$", regex);
        if (!target || !append(&former, "|", regex))
            return false;
        if (rule->scheme.weights.enabled && add_group(groups, i + 1, &rule->scheme, target) < 0)
            return false;
    }
    return true;
}

static const char *common_format(const json_t *groups)
{
    const char *common = NULL, *name;
    json_t *group;
    json_object_foreach((json_t *)groups, name, group) {
        const char *format = json_string_value(json_object_get(group, "format"));
        if (common && strcmp(common, format) != 0)
            return "mixed-precision";
        common = format;
    }
    return common;
}

static int check_formats(const struct qp_scheme *scheme, struct qp_error *err)
{
    int r = qp_compressed_check(&scheme->base, "scheme", 0, 0, err);
    for (size_t i = 0; i < scheme->rule_count && r == 0; i++)
        r = qp_compressed_check(&scheme->rules[i].scheme, scheme->rules[i].match, 0, 0, err);
    return r;
}

int qp_compressed_config(const struct qp_scheme *scheme, const json_t *ignore, json_t **out, struct qp_error *err)
{
    int r = check_formats(scheme, err);
    if (r < 0)
        return r;
    qp_auto_json json_t *groups = json_object();
    if (!groups || (scheme->base.weights.enabled && add_group(groups, 0, &scheme->base, "Linear") < 0) ||
        !add_rules(groups, scheme))
        return qp_fail_memory(err, 0, "quantization_config");
    json_t *config =
        json_pack("{s:O, s:s, s:n, s:o, s:n, s:s, s:s, s:{}, s:{}, s:s}", "config_groups", groups, "format",
                  common_format(groups), "global_compression_ratio", "ignore", json_deep_copy(ignore),
                  "kv_cache_scheme", "quant_method", "compressed-tensors", "quantization_status", "compressed",
                  "sparsity_config", "transform_config", "version", LAYOUT_VERSION);
    if (!config)
        return qp_fail_memory(err, 0, "quantization_config");
    *out = config;
    return 0;
}

/* ---- a config to a scheme ---- */

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
    if (!absent(json_object_get(args, "block_structure")))
        return bad(r, "block_structure", "blocks cannot be read");
    if (!absent(json_object_get(args, "scale_dtype")))
        return bad(r, "scale_dtype", "scales of a type of their own cannot be read");
    return 0;
}

/* Sets `format` and `symmetric` in a spec of ours. */
static int read_format(struct reading *r, const json_t *args, json_t *spec)
{
    char name[16] = "fp8_e4m3";
    const json_t *bits = json_object_get(args, "num_bits"), *symmetric = json_object_get(args, "symmetric");
    json_int_t count = bits ? json_integer_value(bits) : 8;
    const char *type = json_object_get(args, "type") ? word(args, "type") : "int";
    bool is_int = strcmp(type, "int") == 0;
    if (!is_int && strcmp(type, "float") != 0)
        return bad(r, "type", "expected \"int\" or \"float\"");
    if (is_int ? count < 2 || count > 8 : count != 8)
        return bad(r, "num_bits", "expected %s for type %s", is_int ? "2 to 8" : "8", type);
    if (symmetric && !json_is_boolean(symmetric))
        return bad(r, "symmetric", "expected true or false");
    if (is_int)
        snprintf(name, sizeof name, "int%d", (int)count);
    int result = set(r, spec, "format", json_string(name));
    return result < 0 ? result : set(r, spec, "symmetric", json_boolean(!json_is_false(symmetric)));
}

static int read_weights(struct reading *r, const json_t *args, json_t *spec)
{
    if (check_args(r, args) < 0 || read_format(r, args, spec) < 0)
        return r->err->code;
    const json_t *group = json_object_get(args, "group_size");
    const char *name = word(args, "strategy");
    if (!*name)
        name = absent(group) ? "tensor" : json_integer_value(group) == -1 ? "channel" : "group";
    if (strcmp(name, "group") == 0 && !json_is_integer(group))
        return bad(r, "group_size", "expected an integer");
    if (strcmp(name, "group") == 0)
        return set(r, spec, "group", json_incref((json_t *)group));
    if (strcmp(name, "channel") != 0 && strcmp(name, "tensor") != 0)
        return bad(r, "strategy", "expected \"tensor\", \"channel\" or \"group\"");
    return set(r, spec, "granularity", json_string(name));
}

static int read_activations(struct reading *r, const json_t *args, json_t *spec)
{
    if (check_args(r, args) < 0 || read_format(r, args, spec) < 0)
        return r->err->code;
    const char *name = *word(args, "strategy") ? word(args, "strategy") : "tensor";
    if (!json_is_true(json_object_get(args, "dynamic")))
        return bad(r, "dynamic", "only activation ranges taken at run time (true) can be read");
    if (strcmp(name, "token") != 0 && strcmp(name, "tensor") != 0)
        return bad(r, "strategy", "expected \"token\" or \"tensor\"");
    return set(r, spec, "granularity", json_string(name));
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
    if (!absent(json_object_get(config, "kv_cache_scheme")))
        return bad(r, "kv_cache_scheme", "quantized KV caches cannot be read");
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
        read_ignore(&r, json_object_get(config, "ignore"), json_object_get(mapping, "ignore")) < 0)
        return err->code;
    if (qp_scheme_parse(mapping, out, err) < 0)
        return qp_wrap(err, "%s: quantization_config, read as a scheme", path);
    return 0;
}
