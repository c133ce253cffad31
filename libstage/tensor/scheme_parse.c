#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/words.h"
#include "libstage/tensor/scheme.h"

#define MAX_GROUP (1 << 20)
#define PATH 160

static const char *const scheme_keys[] = {"name", "weights", "activations", "ignore", "rules", NULL};
static const char *const rule_keys[] = {"match", "weights", "activations", NULL};
static const char *const weights_keys[] = {"format", "group", "granularity", "symmetric", "ragged", NULL};
static const char *const activations_keys[] = {"format", "granularity", "symmetric", "dynamic", NULL};
static const char *const weights_granularities[] = {"tensor", "channel", "group", NULL};
static const char *const activations_granularities[] = {"tensor", "token", NULL};

static const char *const format_names[] = {"int2", "int3", "int4",     "int5",     "int6",
                                           "int7", "int8", "fp8_e4m3", "fp8_e5m2", NULL};
static const char *const all_formats[] = {"int2", "int3",     "int4",     "int5", "int6", "int7",
                                          "int8", "fp8_e4m3", "fp8_e5m2", "bf16", NULL};

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "a mapping",   [JSON_ARRAY] = "a list",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number", [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean",    [JSON_NULL] = "nothing"};
    return value ? names[json_typeof(value)] : "nothing";
}

static int wrong_type(const json_t *value, const char *path, const char *key, const char *expected,
                      struct qp_error *err)
{
    return qp_fail(err, QP_ERR_INPUT, "%s%s%s: found %s, expected %s", path, *key ? "." : "", key, type_name(value),
                   expected);
}

static int check_mapping(const json_t *value, const char *path, const char *const *known, struct qp_error *err)
{
    if (!json_is_object(value))
        return wrong_type(value, path, "", "a mapping", err);
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
        if (!qp_known(key, known))
            return qp_fail_unknown(err, QP_ERR_INPUT, path, "key", key, known);
    return 0;
}

/* *out keeps its value when the key is absent; so do the two below. */
static int get_string(const json_t *object, const char *path, const char *key, const char **out, struct qp_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_string(value))
        return wrong_type(value, path, key, "a string", err);
    if (value)
        *out = json_string_value(value);
    return 0;
}

static int get_bool(const json_t *object, const char *path, const char *key, bool *out, struct qp_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_boolean(value))
        return wrong_type(value, path, key, "true or false", err);
    if (value)
        *out = json_is_true(value);
    return 0;
}

static int get_group(const json_t *object, const char *path, int64_t *out, struct qp_error *err)
{
    const json_t *value = json_object_get(object, "group");
    if (!value)
        return 0;
    if (!json_is_integer(value))
        return wrong_type(value, path, "group", "an integer", err);
    *out = json_integer_value(value);
    if (*out < 1 || *out > MAX_GROUP)
        return qp_fail(err, QP_ERR_INPUT, "%s.group: found %lld, expected 1 to %d", path, (long long)*out, MAX_GROUP);
    return 0;
}

/* Reads `format`. bf16 leaves the spec disabled, and takes no other key. */
static int parse_format(const json_t *value, const char *path, struct qp_quant_spec *spec, struct qp_error *err)
{
    const char *format = NULL;
    int r = get_string(value, path, "format", &format, err);
    if (r < 0)
        return r;
    char where[PATH + 16];
    snprintf(where, sizeof where, "%s.format", path);
    if (!format)
        return qp_fail(err, QP_ERR_INPUT, "%s: missing; give a format, such as int4", where);
    if (!qp_known(format, all_formats))
        return qp_fail_unknown(err, QP_ERR_INPUT, where, "format", format, all_formats);
    if (!qp_known(format, format_names))
        return json_object_size(value) == 1
                   ? 0
                   : qp_fail(err, QP_ERR_INPUT, "%s: bf16 leaves it as it is, so the other keys mean nothing", where);
    spec->enabled = true;
    if (strncmp(format, "int", 3) == 0)
        spec->grid = (struct qp_grid){.codes = QP_I8, .bits = format[3] - '0'};
    else
        spec->grid = (struct qp_grid){.codes = format[5] == '4' ? QP_F8_E4M3 : QP_F8_E5M2, .bits = 8};
    spec->grid.scale_dtype = QP_F32;
    return 0;
}

static int parse_symmetric(const json_t *value, const char *path, struct qp_quant_spec *spec, struct qp_error *err)
{
    spec->grid.symmetric = true;
    int r = get_bool(value, path, "symmetric", &spec->grid.symmetric, err);
    if (r == 0 && !spec->grid.symmetric && spec->grid.codes != QP_I8)
        return qp_fail(err, QP_ERR_INPUT, "%s.symmetric: FP8 has no zero points; found false, expected true", path);
    return r;
}

static int check_granularity(const char *word, const char *path, const char *const *known, struct qp_error *err)
{
    if (qp_known(word, known))
        return 0;
    char where[PATH + 16];
    snprintf(where, sizeof where, "%s.granularity", path);
    return qp_fail_unknown(err, QP_ERR_INPUT, where, "granularity", word, known);
}

static int parse_weights_granularity(const json_t *value, const char *path, struct qp_quant_spec *spec,
                                     struct qp_error *err)
{
    const char *word = json_object_get(value, "group") ? "group" : "channel";
    bool grouped = strcmp(word, "group") == 0;
    if (get_string(value, path, "granularity", &word, err) < 0 ||
        check_granularity(word, path, weights_granularities, err) < 0 ||
        get_group(value, path, &spec->group, err) < 0 || get_bool(value, path, "ragged", &spec->ragged, err) < 0)
        return err->code;
    if (strcmp(word, "group") == 0 && !grouped)
        return qp_fail(err, QP_ERR_INPUT, "%s.group: missing; granularity group needs the columns of a group: 128, say",
                       path);
    if (strcmp(word, "group") != 0 && grouped)
        return qp_fail(err, QP_ERR_INPUT, "%s.granularity: found %s, but group is given; drop one of the two", path,
                       word);
    if (spec->ragged && !grouped)
        return qp_fail(err, QP_ERR_INPUT, "%s.ragged: only groups can be ragged; give group as well", path);
    spec->granularity = grouped ? QP_PER_GROUP : word[0] == 'c' ? QP_PER_CHANNEL : QP_PER_TENSOR;
    return 0;
}

static int parse_weights(const json_t *value, const char *path, struct qp_quant_spec *spec, struct qp_error *err)
{
    if (check_mapping(value, path, weights_keys, err) < 0 || parse_format(value, path, spec, err) < 0)
        return err->code;
    if (!spec->enabled)
        return 0;
    int r = parse_symmetric(value, path, spec, err);
    return r < 0 ? r : parse_weights_granularity(value, path, spec, err);
}

static int parse_activations(const json_t *value, const char *path, struct qp_quant_spec *spec, struct qp_error *err)
{
    if (check_mapping(value, path, activations_keys, err) < 0 || parse_format(value, path, spec, err) < 0)
        return err->code;
    if (!spec->enabled)
        return 0;
    const char *word = "token";
    spec->dynamic = true;
    if (parse_symmetric(value, path, spec, err) < 0 || get_string(value, path, "granularity", &word, err) < 0 ||
        check_granularity(word, path, activations_granularities, err) < 0 ||
        get_bool(value, path, "dynamic", &spec->dynamic, err) < 0)
        return err->code;
    if (!spec->dynamic)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.dynamic: found false; this version takes activation ranges at run time only (dynamic: true)",
                       path);
    spec->granularity = strcmp(word, "token") == 0 ? QP_PER_TOKEN : QP_PER_TENSOR;
    return 0;
}

/* Combinations that no engine runs. */
static int check_pair(const struct qp_linear_scheme *linear, const char *path, struct qp_error *err)
{
    const struct qp_quant_spec *w = &linear->weights, *a = &linear->activations;
    if (a->enabled && !w->enabled)
        return qp_fail(err, QP_ERR_INPUT, "%s.activations: are quantized only together with weights; give weights too",
                       path);
    if (a->enabled && w->grid.codes != QP_I8 && a->grid.codes == QP_I8)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s.activations.format: FP8 weights cannot be multiplied by integers; "
                       "use an fp8 format",
                       path);
    return 0;
}

/* Reads the sides that `value` names over those in `linear`. */
static int parse_linear(const json_t *value, const char *path, struct qp_linear_scheme *linear, struct qp_error *err)
{
    char where[PATH];
    const json_t *weights = json_object_get(value, "weights"), *activations = json_object_get(value, "activations");
    if (weights) {
        linear->weights = (struct qp_quant_spec){0};
        snprintf(where, sizeof where, "%s.weights", path);
        if (parse_weights(weights, where, &linear->weights, err) < 0)
            return err->code;
        if (!linear->weights.enabled && !activations)
            linear->activations = (struct qp_quant_spec){0};
    }
    if (activations) {
        linear->activations = (struct qp_quant_spec){0};
        snprintf(where, sizeof where, "%s.activations", path);
        if (parse_activations(activations, where, &linear->activations, err) < 0)
            return err->code;
    }
    return check_pair(linear, path, err);
}

static int parse_rule(const json_t *value, size_t index, struct qp_scheme *scheme, struct qp_error *err)
{
    struct qp_scheme_rule *rule = &scheme->rules[index];
    char path[PATH / 2];
    const char *match = NULL;
    snprintf(path, sizeof path, "scheme.rules[%zu]", index);
    if (check_mapping(value, path, rule_keys, err) < 0 || get_string(value, path, "match", &match, err) < 0)
        return err->code;
    if (!match || !*match)
        return qp_fail(err, QP_ERR_INPUT, "%s.match: missing; give a pattern of module names, such as *.down_proj",
                       path);
    if (json_object_size(value) == 1)
        return qp_fail(err, QP_ERR_INPUT, "%s: changes nothing; give weights or activations", path);
    rule->match = strdup(match);
    if (!rule->match)
        return qp_fail_memory(err, strlen(match), "the scheme");
    rule->scheme = scheme->base;
    scheme->rule_count++;
    return parse_linear(value, path, &rule->scheme, err);
}

static int parse_rules(const json_t *list, struct qp_scheme *scheme, struct qp_error *err)
{
    if (!list)
        return 0;
    if (!json_is_array(list))
        return wrong_type(list, "scheme", "rules", "a list of mappings", err);
    scheme->rules = calloc(json_array_size(list) + 1, sizeof *scheme->rules);
    if (!scheme->rules)
        return qp_fail_memory(err, json_array_size(list), "the scheme");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (parse_rule(json_array_get(list, i), i, scheme, err) < 0)
            return err->code;
    return 0;
}

static int parse_ignore(const json_t *list, struct qp_scheme *scheme, struct qp_error *err)
{
    if (!json_is_array(list))
        return wrong_type(list, "scheme", "ignore", "a list of patterns of module names", err);
    scheme->ignore = calloc(json_array_size(list) + 1, sizeof *scheme->ignore);
    if (!scheme->ignore)
        return qp_fail_memory(err, json_array_size(list), "the scheme");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        char path[PATH];
        snprintf(path, sizeof path, "scheme.ignore[%zu]", i);
        if (!json_is_string(item))
            return wrong_type(item, path, "", "a pattern of module names", err);
        if (!(scheme->ignore[i] = strdup(json_string_value(item))))
            return qp_fail_memory(err, json_string_length(item), "the scheme");
        scheme->ignore_count++;
    }
    return 0;
}

static bool is_alias(const struct qp_preset *preset, const char *name)
{
    size_t length = strlen(name);
    if (strcasecmp(preset->name, name) == 0)
        return true;
    for (const char *p = preset->aliases; *p; p += strcspn(p, ", "), p += strspn(p, ", "))
        if (strcspn(p, ", ") == length && strncasecmp(p, name, length) == 0)
            return true;
    return false;
}

/* The mapping of a preset, with its name in it. A new reference; NULL with `err` described. */
static json_t *preset_mapping(const char *name, struct qp_error *err)
{
    const char *known[16] = {NULL};
    size_t count = 0;
    for (const struct qp_preset *p = qp_presets(); p->name; p++) {
        if (count < 15)
            known[count++] = p->name;
        if (!is_alias(p, name))
            continue;
        json_t *mapping = json_loads(p->mapping, 0, NULL);
        if (mapping && json_object_set_new(mapping, "name", json_string(p->name)) == 0)
            return mapping;
        json_decref(mapping);
        qp_fail_memory(err, strlen(p->mapping), "the scheme");
        return NULL;
    }
    qp_fail_unknown(err, QP_ERR_INPUT, "scheme", "preset", name, known);
    return NULL;
}

/* The mapping that `value` means, with `name` and `ignore` filled in. A new reference; NULL with `err` described. */
static json_t *normalise(const json_t *value, struct qp_error *err)
{
    if (json_is_string(value))
        return preset_mapping(json_string_value(value), err);
    if (!json_is_object(value)) {
        wrong_type(value, "scheme", "", "the name of a preset or a mapping", err);
        return NULL;
    }
    json_t *mapping = json_deep_copy(value);
    if (!mapping ||
        (!json_object_get(mapping, "name") && json_object_set_new(mapping, "name", json_string("custom"))) ||
        (!json_object_get(mapping, "ignore") &&
         json_object_set_new(mapping, "ignore", json_pack("[s]", "lm_head")) < 0)) {
        json_decref(mapping);
        qp_fail_memory(err, 0, "the scheme");
        return NULL;
    }
    return mapping;
}

static int check_any(const struct qp_scheme *scheme, struct qp_error *err)
{
    bool any = scheme->base.weights.enabled;
    for (size_t i = 0; i < scheme->rule_count; i++)
        any = any || scheme->rules[i].scheme.weights.enabled;
    return any ? 0 : qp_fail(err, QP_ERR_INPUT, "scheme: quantizes nothing; give weights, or a rule with weights");
}

static int parse_mapping(struct qp_scheme *scheme, struct qp_error *err)
{
    const char *name = NULL;
    if (check_mapping(scheme->source, "scheme", scheme_keys, err) < 0 ||
        get_string(scheme->source, "scheme", "name", &name, err) < 0)
        return err->code;
    if (!(scheme->name = strdup(name)))
        return qp_fail_memory(err, strlen(name), "the scheme");
    if (parse_linear(scheme->source, "scheme", &scheme->base, err) < 0 ||
        parse_ignore(json_object_get(scheme->source, "ignore"), scheme, err) < 0 ||
        parse_rules(json_object_get(scheme->source, "rules"), scheme, err) < 0)
        return err->code;
    return check_any(scheme, err);
}

int qp_scheme_parse(const json_t *value, struct qp_scheme **out, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    struct qp_scheme *scheme = calloc(1, sizeof *scheme);
    if (!scheme)
        return qp_fail_memory(err, sizeof *scheme, "the scheme");
    scheme->source = normalise(value, err);
    if (!scheme->source || parse_mapping(scheme, err) < 0) {
        qp_scheme_free(scheme);
        return err->code;
    }
    *out = scheme;
    return 0;
}
