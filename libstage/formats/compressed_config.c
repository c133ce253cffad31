#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/compressed_tensors.h"
#include "libstage/formats/patterns.h"

/* Keys and words: QuantizationConfig, QuantizationScheme and QuantizationArgs of compressed-tensors. */

#define LAYOUT_VERSION "0.20.0"

static const char *strategy(const struct qp_quant_spec *spec)
{
    static const char *const names[] = {[QP_PER_TENSOR] = "tensor",
                                        [QP_PER_CHANNEL] = "channel",
                                        [QP_PER_GROUP] = "group",
                                        [QP_PER_TOKEN] = "token",
                                        [QP_PER_BLOCK] = "block"};
    return spec->format.scale_dtype == QP_F8_E4M3 ? "tensor_group" : names[spec->granularity];
}

/* Below a global scale, which is fixed, NVFP4's groups are "local". */
static json_t *dynamic(const struct qp_quant_spec *spec)
{
    return spec->dynamic && spec->format.scale_dtype == QP_F8_E4M3 ? json_string("local") : json_boolean(spec->dynamic);
}

static const char *observer(const struct qp_quant_spec *spec, bool weights)
{
    bool fixed = !spec->dynamic || spec->format.scale_dtype == QP_F8_E4M3;
    return weights ? "memoryless_minmax" : fixed ? "static_minmax" : NULL;
}

/* All arguments are written, as the library did up to 0.19: any version reads them. */
static json_t *make_args(const struct qp_quant_spec *spec, bool weights)
{
    const struct qp_number_format *format = &spec->format;
    if (!spec->enabled)
        return json_null();
    json_t *group = spec->granularity == QP_PER_GROUP ? json_integer(spec->group) : json_null();
    json_t *block =
        spec->granularity == QP_PER_BLOCK ? json_pack("[I, I]", spec->block_rows, spec->group) : json_null();
    const char *scale = format->scale_dtype == QP_F8_E4M3   ? "torch.float8_e4m3fn"
                        : format->scale_dtype == QP_F8_E8M0 ? "torch.uint8"
                                                            : NULL;
    return json_pack("{s:n, s:o, s:o, s:o, s:i, s:s?, s:{}, s:s?, s:s, s:b, s:s, s:s?}", "actorder", "block_structure",
                     block, "dynamic", dynamic(spec), "group_size", group, "num_bits", format->bits, "observer",
                     observer(spec, weights), "observer_kwargs", "scale_dtype", scale, "strategy", strategy(spec),
                     "symmetric", format->symmetric, "type", format->codes == QP_I8 ? "int" : "float", "zp_dtype",
                     format->symmetric ? NULL : "torch.int8");
}

static json_t *make_group(const struct qp_linear_scheme *linear, const char *target)
{
    return json_pack("{s:s, s:o, s:n, s:[s], s:o}", "format", qp_compressed_format(linear), "input_activations",
                     make_args(&linear->activations, false), "output_activations", "targets", target, "weights",
                     make_args(&linear->weights, true));
}

static int add_group(json_t *groups, size_t index, const struct qp_linear_scheme *linear, const char *target)
{
    char name[32];
    snprintf(name, sizeof name, "group_%zu", index);
    return json_object_set_new(groups, name, make_group(linear, target));
}

/* Appends `more` to *text (NULL at first), after `separator` when there is something already. */
static bool append(char **text, const char *separator, const char *more)
{
    char *grown = *text ? qp_format("%s%s%s", *text, separator, more) : strdup(more);
    free(*text);
    *text = grown;
    return grown != NULL;
}

/* Whether a rule names one module, that no rule before it matches. */
static bool names_module(const struct qp_scheme *scheme, size_t index)
{
    const char *match = scheme->rules[index].match;
    if (strpbrk(match, "*?[\\"))
        return false;
    for (size_t i = 0; i < index; i++)
        if (fnmatch(scheme->rules[i].match, match, 0) == 0)
            return false;
    return true;
}

/* Adds a module to the group of its formats, a new one if there is none: a choice for each linear makes hundreds of
 * rules of a few formats. */
static bool add_module(json_t *groups, size_t index, const struct qp_scheme_rule *rule)
{
    qp_auto_json json_t *alone = make_group(&rule->scheme, rule->match);
    const char *name;
    json_t *group;
    json_object_foreach(groups, name, group) {
        json_t *targets = json_object_get(group, "targets");
        const char *first = json_string_value(json_array_get(targets, 0));
        bool modules = strncmp(first, "re:", 3) != 0 && strcmp(first, "Linear") != 0;
        if (modules && json_equal(json_object_get(group, "weights"), json_object_get(alone, "weights")) &&
            json_equal(json_object_get(group, "input_activations"), json_object_get(alone, "input_activations")))
            return json_array_append_new(targets, json_string(rule->match)) == 0;
    }
    return alone && add_group(groups, index, &rule->scheme, rule->match) == 0;
}

/* Adds the groups of the rules. Readers try names of modules first, or in the order of the groups: so those come first.
 * Of expressions, compressed-tensors tries the alphabetically first, vLLM the first in the order of the groups: so each
 * excludes what the rules before it match, and the order no longer matters. */
static bool add_rules(json_t *groups, const struct qp_scheme *scheme)
{
    qp_auto_free char *former = NULL;
    for (size_t i = 0; i < scheme->rule_count; i++)
        if (scheme->rules[i].scheme.weights.enabled && names_module(scheme, i) &&
            !add_module(groups, i + 1, &scheme->rules[i]))
            return false;
    for (size_t i = 0; i < scheme->rule_count; i++) {
        const struct qp_scheme_rule *rule = &scheme->rules[i];
        if (names_module(scheme, i))
            continue;
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
    json_t *config = json_pack("{s:O, s:s, s:n, s:o, s:o, s:s, s:s, s:{}, s:{}, s:s}", "config_groups", groups,
                               "format", common_format(groups), "global_compression_ratio", "ignore",
                               json_deep_copy(ignore), "kv_cache_scheme", make_args(&scheme->kv_cache, false),
                               "quant_method", "compressed-tensors", "quantization_status", "compressed",
                               "sparsity_config", "transform_config", "version", LAYOUT_VERSION);
    if (!config)
        return qp_fail_memory(err, 0, "quantization_config");
    *out = config;
    return 0;
}
