#include "libstage/tensor/scheme/budget.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/tensor/scheme/fields.h"

static const char *const candidate_keys[] = {"name", "weights", "activations", NULL};
static const char *const plain_formats[] = {"bf16", "fp16", "fp32", NULL};

bool qp_is_budget(const json_t *scheme)
{
    return json_object_get(scheme, "budget") != NULL;
}

/* ---- the budget ---- */

struct unit {
    const char *name;
    double bytes; /* 0: bits */
};

static const struct unit units[] = {{"bits", 0},     {"bit", 0},      {"B", 1},       {"kB", 1e3},
                                    {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12},   {"KiB", 0x1p10},
                                    {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};

static int bad_amount(const char *text, struct qp_error *err)
{
    return qp_fail(err, QP_ERR_INPUT,
                   "scheme.budget: found '%.60s', expected bits for each weight, as 4.5bits (1 to 32), or the size of "
                   "the whole checkpoint, as 5GB or 800MiB",
                   text);
}

static int parse_amount(const json_t *value, struct qp_budget *budget, struct qp_error *err)
{
    if (!json_is_string(value))
        return qp_scheme_wrong_type(value, "scheme", "budget", "a number with its unit, as 4.5bits or 5GB", err);
    const char *text = json_string_value(value);
    char *end = NULL;
    double number = strspn(text, "0123456789.") ? strtod(text, &end) : NAN;
    if (!isfinite(number))
        return bad_amount(text, err);
    end += strspn(end, " ");
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].name) == 0) {
            double bytes = number * units[i].bytes;
            if (units[i].bytes > 0 ? bytes < 1 || bytes > 0x1p62 : number < 1 || number > 32)
                return bad_amount(text, err);
            budget->bits = units[i].bytes > 0 ? 0 : number;
            budget->bytes = (uint64_t)bytes;
            budget->text = strdup(text);
            return budget->text ? 0 : qp_fail_memory(err, strlen(text), "the budget");
        }
    return bad_amount(text, err);
}

/* ---- candidates ---- */

static bool is_plain(const json_t *mapping)
{
    const char *format = json_string_value(json_object_get(json_object_get(mapping, "weights"), "format"));
    for (size_t i = 0; format && plain_formats[i]; i++)
        if (strcmp(format, plain_formats[i]) == 0)
            return !json_object_get(mapping, "activations");
    return false;
}

/* What is written in choose_from as a mapping: a new reference, NULL with `err` described. */
static json_t *mapping_of(const json_t *value, const char *path, struct qp_error *err)
{
    const char *word = json_string_value(value);
    json_t *mapping = NULL;
    if (word && strcmp(word, plain_formats[0]) == 0)
        mapping = json_pack("{s:s, s:{s:s}}", "name", word, "weights", "format", word);
    else if (word)
        mapping = qp_preset_mapping(word, err);
    else if (qp_scheme_check_keys(value, path, candidate_keys, err) == 0)
        mapping = json_deep_copy(value);
    else
        return NULL;
    if (!mapping && !word)
        qp_fail_memory(err, 0, path);
    else if (!mapping)
        qp_wrap(err, "%s", path);
    return mapping;
}

/* A name for formats that got none: "int4-g64", "int8-channel-asym". */
static char *made_name(const json_t *weights)
{
    const char *format = json_string_value(json_object_get(weights, "format"));
    const char *granularity = json_string_value(json_object_get(weights, "granularity"));
    const json_t *group = json_object_get(weights, "group");
    const char *tail = json_is_false(json_object_get(weights, "symmetric")) ? "-asym" : "";
    if (json_is_integer(group))
        return qp_format("%s-g%" JSON_INTEGER_FORMAT "%s", format, json_integer_value(group), tail);
    return qp_format("%s%s%s%s", format, granularity ? "-" : "", granularity ? granularity : "", tail);
}

/* The formats of a candidate, read as a scheme of their own. */
static int parse_formats(const json_t *mapping, const json_t *exact, const char *path, struct qp_linear_scheme *out,
                         struct qp_error *err)
{
    if (is_plain(mapping))
        return 0;
    qp_auto_json json_t *alone = json_pack("{s:O*, s:O*, s:O*, s:O*}", "weights", json_object_get(mapping, "weights"),
                                           "activations", json_object_get(mapping, "activations"), "kv_cache",
                                           json_object_get(mapping, "kv_cache"), "exact", exact);
    struct qp_scheme *scheme = NULL;
    if (!alone)
        return qp_fail_memory(err, 0, path);
    if (qp_scheme_parse(alone, &scheme, err) < 0)
        return qp_wrap(err, "%s", path);
    int r = scheme->kv_cache.enabled
                ? qp_fail(err, QP_ERR_INPUT, "%s: a KV cache has one format; give `kv_cache` beside the budget", path)
                : 0;
    *out = scheme->base;
    qp_scheme_free(scheme);
    return r;
}

static int parse_candidate(const json_t *value, const json_t *exact, const char *path, struct qp_candidate *out,
                           struct qp_error *err)
{
    qp_auto_json json_t *mapping = mapping_of(value, path, err);
    if (!mapping || parse_formats(mapping, exact, path, &out->scheme, err) < 0)
        return err->code;
    const char *name = NULL;
    if (qp_scheme_string(mapping, path, "name", &name, err) < 0)
        return err->code;
    json_t *weights = json_object_get(mapping, "weights"), *activations = json_object_get(mapping, "activations");
    out->name = name ? strdup(name) : made_name(weights);
    out->linear = json_pack("{s:O, s:O*}", "weights", weights, "activations", activations);
    if (!out->name || !out->linear)
        return qp_fail_memory(err, 0, path);
    return 0;
}

static int check_name(const struct qp_budget *budget, size_t index, struct qp_error *err)
{
    for (size_t i = 0; i < index; i++)
        if (strcmp(budget->candidates[i].name, budget->candidates[index].name) == 0)
            return qp_fail(err, QP_ERR_INPUT,
                           "scheme.choose_from[%zu]: is called '%.60s' like choose_from[%zu]; give it another `name`",
                           index, budget->candidates[index].name, i);
    return 0;
}

static int parse_candidates(const json_t *list, const json_t *exact, struct qp_budget *budget, struct qp_error *err)
{
    size_t count = json_array_size(list);
    if (!json_is_array(list))
        return qp_scheme_wrong_type(list, "scheme", "choose_from", "a list of presets or mappings with weights", err);
    if (count < 2 || count > QP_MAX_CANDIDATES)
        return qp_fail(err, QP_ERR_INPUT, "scheme.choose_from: found %zu formats to choose from, expected 2 to %d",
                       count, QP_MAX_CANDIDATES);
    budget->candidates = calloc(count, sizeof *budget->candidates);
    if (!budget->candidates)
        return qp_fail_memory(err, count * sizeof *budget->candidates, "the scheme");
    for (size_t i = 0; i < count; i++) {
        char path[QP_SCHEME_PATH];
        snprintf(path, sizeof path, "scheme.choose_from[%zu]", i);
        budget->count++;
        int r = parse_candidate(json_array_get(list, i), exact, path, &budget->candidates[i], err);
        if (r == 0)
            r = check_name(budget, i, err);
        if (r < 0)
            return r;
    }
    return 0;
}

int qp_budget_parse(const json_t *mapping, struct qp_budget **out, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    struct qp_budget *budget = calloc(1, sizeof *budget);
    if (!budget)
        return qp_fail_memory(err, sizeof *budget, "the scheme");
    if (parse_amount(json_object_get(mapping, "budget"), budget, err) < 0 ||
        parse_candidates(json_object_get(mapping, "choose_from"), json_object_get(mapping, "exact"), budget, err) < 0) {
        qp_budget_free(budget);
        return err->code;
    }
    *out = budget;
    return 0;
}

void qp_budget_free(struct qp_budget *budget)
{
    if (!budget)
        return;
    for (size_t i = 0; i < budget->count; i++) {
        free(budget->candidates[i].name);
        json_decref(budget->candidates[i].linear);
    }
    free(budget->candidates);
    free(budget->text);
    free(budget);
}
