#include <stdlib.h>
#include <string.h>
#include <stdio.h>

#include "libstage/base/cleanup.h"
#include "libstage/tensor/scheme/budget.h"
#include "libstage/tensor/scheme/fields.h"
#include "libstage/tensor/scheme/spec.h"

#define PATH QP_SCHEME_PATH

static const char *const scheme_keys[] = {"name",   "weights", "activations", "kv_cache",
                                          "ignore", "rules",   "exact",       NULL};
static const char *const budget_keys[] = {"name", "budget", "choose_from", "kv_cache", "ignore", "exact", NULL};
static const char *const rule_keys[] = {"match", "weights", "activations", NULL};
static const char *const exact_words[] = {"llm-compressor", "modelopt", NULL};

/* Reads the sides that `value` names over those in `linear`. */
static int parse_linear(const json_t *value, const char *path, enum qp_exact exact, struct qp_linear_scheme *linear,
                        struct qp_error *err)
{
    char where[PATH];
    const json_t *weights = json_object_get(value, "weights"), *activations = json_object_get(value, "activations");
    if (weights) {
        snprintf(where, sizeof where, "%s.weights", path);
        if (qp_scheme_parse_weights(weights, where, exact, &linear->weights, err) < 0)
            return err->code;
        if (!linear->weights.enabled && !activations)
            linear->activations = (struct qp_quant_spec){0};
    }
    if (activations) {
        snprintf(where, sizeof where, "%s.activations", path);
        if (qp_scheme_parse_activations(activations, where, exact, &linear->activations, err) < 0)
            return err->code;
    }
    return qp_scheme_check_pair(linear, path, err);
}

static int parse_rule(const json_t *value, size_t index, struct qp_scheme *scheme, struct qp_error *err)
{
    struct qp_scheme_rule *rule = &scheme->rules[index];
    char path[PATH / 2];
    const char *match = NULL;
    snprintf(path, sizeof path, "scheme.rules[%zu]", index);
    if (qp_scheme_check_keys(value, path, rule_keys, err) < 0 ||
        qp_scheme_string(value, path, "match", &match, err) < 0)
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
    int r = qp_match_add(&scheme->rule_match, rule->match, err);
    return r < 0 ? r : parse_linear(value, path, scheme->exact, &rule->scheme, err);
}

static int parse_rules(const json_t *list, struct qp_scheme *scheme, struct qp_error *err)
{
    if (!list)
        return 0;
    if (!json_is_array(list))
        return qp_scheme_wrong_type(list, "scheme", "rules", "a list of mappings", err);
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
        return qp_scheme_wrong_type(list, "scheme", "ignore", "a list of patterns of module names", err);
    scheme->ignore = calloc(json_array_size(list) + 1, sizeof *scheme->ignore);
    if (!scheme->ignore)
        return qp_fail_memory(err, json_array_size(list), "the scheme");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        char path[PATH];
        snprintf(path, sizeof path, "scheme.ignore[%zu]", i);
        if (!json_is_string(item))
            return qp_scheme_wrong_type(item, path, "", "a pattern of module names", err);
        if (!(scheme->ignore[i] = strdup(json_string_value(item))))
            return qp_fail_memory(err, json_string_length(item), "the scheme");
        if (qp_match_add(&scheme->ignore_match, scheme->ignore[scheme->ignore_count++], err) < 0)
            return err->code;
    }
    return 0;
}

/* The mapping that `value` means, with `name` and `ignore` filled in. A new reference; NULL with `err` described. */
static json_t *normalise(const json_t *value, struct qp_error *err)
{
    if (json_is_string(value))
        return qp_preset_mapping(json_string_value(value), err);
    if (!json_is_object(value)) {
        qp_scheme_wrong_type(value, "scheme", "", "the name of a preset or a mapping", err);
        return NULL;
    }
    json_t *mapping = json_deep_copy(value);
    if (!mapping ||
        (!json_object_get(mapping, "name") &&
         json_object_set_new(mapping, "name", json_string(qp_is_budget(value) ? "budget" : "custom"))) ||
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

static int parse_exact(struct qp_scheme *scheme, struct qp_error *err)
{
    const char *word = "";
    int r = qp_scheme_word(scheme->source, "scheme", "exact", exact_words, &word, err);
    scheme->exact = word[0] == 'm' ? QP_EXACT_MODELOPT : word[0] == 'l' ? QP_EXACT_LLM_COMPRESSOR : QP_EXACT_NONE;
    return r;
}

static int parse_mapping(struct qp_scheme *scheme, struct qp_error *err)
{
    const char *name = NULL;
    const json_t *source = scheme->source, *kv_cache = json_object_get(source, "kv_cache");
    bool budget = qp_is_budget(source);
    if (qp_scheme_check_keys(source, "scheme", budget ? budget_keys : scheme_keys, err) < 0 ||
        qp_scheme_string(source, "scheme", "name", &name, err) < 0 || parse_exact(scheme, err) < 0)
        return err->code;
    if (!(scheme->name = strdup(name)))
        return qp_fail_memory(err, strlen(name), "the scheme");
    if ((budget ? qp_budget_parse(source, &scheme->budget, err)
                : parse_linear(source, "scheme", scheme->exact, &scheme->base, err)) < 0 ||
        (kv_cache &&
         qp_scheme_parse_kv_cache(kv_cache, "scheme.kv_cache", scheme->exact, &scheme->kv_cache, err) < 0) ||
        parse_ignore(json_object_get(source, "ignore"), scheme, err) < 0 ||
        parse_rules(json_object_get(source, "rules"), scheme, err) < 0)
        return err->code;
    return budget ? 0 : check_any(scheme, err);
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
