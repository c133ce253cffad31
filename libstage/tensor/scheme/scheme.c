#include "libstage/tensor/scheme/scheme.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/tensor/scheme/budget.h"

void qp_scheme_free(struct qp_scheme *scheme)
{
    if (!scheme)
        return;
    for (size_t i = 0; i < scheme->ignore_count; i++)
        free(scheme->ignore[i]);
    for (size_t i = 0; i < scheme->rule_count; i++)
        free(scheme->rules[i].match);
    qp_match_clear(&scheme->ignore_match);
    qp_match_clear(&scheme->rule_match);
    free(scheme->ignore);
    free(scheme->rules);
    free(scheme->name);
    json_decref(scheme->source);
    qp_budget_free(scheme->budget);
    free(scheme);
}

/* Scales that a format types itself stay; those of ranges taken at run time are never stored, and engines keep them in
 * float32. */
static void bind_spec(struct qp_quant_spec *spec, enum qp_dtype dtype)
{
    if (spec->format.scale_dtype != QP_F8_E4M3 && spec->format.scale_dtype != QP_F8_E8M0)
        spec->format.scale_dtype = spec->dynamic ? QP_F32 : dtype;
}

static void bind_linear(struct qp_linear_scheme *linear, enum qp_dtype dtype)
{
    bind_spec(&linear->weights, dtype);
    bind_spec(&linear->activations, dtype);
}

void qp_scheme_bind(struct qp_scheme *scheme, enum qp_dtype model_dtype)
{
    enum qp_dtype dtype = scheme->exact == QP_EXACT_MODELOPT ? QP_F32 : model_dtype;
    bind_linear(&scheme->base, dtype);
    bind_spec(&scheme->kv_cache, dtype);
    for (size_t i = 0; i < scheme->rule_count; i++)
        bind_linear(&scheme->rules[i].scheme, dtype);
    for (size_t i = 0; scheme->budget && i < scheme->budget->count; i++)
        bind_linear(&scheme->budget->candidates[i].scheme, dtype);
}

bool qp_scheme_ignores(const struct qp_scheme *scheme, const char *module)
{
    return qp_match_first(&scheme->ignore_match, module) != QP_NO_MATCH;
}

size_t qp_scheme_rule_of(const struct qp_scheme *scheme, const char *module)
{
    return qp_match_first(&scheme->rule_match, module);
}

const struct qp_linear_scheme *qp_scheme_for(const struct qp_scheme *scheme, const char *module)
{
    if (qp_scheme_ignores(scheme, module))
        return NULL;
    size_t rule = qp_scheme_rule_of(scheme, module);
    const struct qp_linear_scheme *found = rule == QP_NO_MATCH ? &scheme->base : &scheme->rules[rule].scheme;
    return found->weights.enabled ? found : NULL;
}

bool qp_spec_is_static(const struct qp_quant_spec *spec)
{
    return spec->enabled && !spec->dynamic;
}

bool qp_spec_has_global(const struct qp_quant_spec *spec)
{
    return spec->enabled && spec->format.scale_dtype == QP_F8_E4M3;
}

static bool is_fixed(const struct qp_linear_scheme *linear)
{
    return linear->weights.enabled &&
           (qp_spec_is_static(&linear->activations) || qp_spec_has_global(&linear->activations));
}

bool qp_scheme_has(const struct qp_scheme *scheme, const char *word)
{
    if (strcmp(word, "kv_cache") == 0)
        return scheme->kv_cache.enabled;
    bool found = is_fixed(&scheme->base);
    for (size_t i = 0; i < scheme->rule_count; i++)
        found |= is_fixed(&scheme->rules[i].scheme);
    for (size_t i = 0; scheme->budget && i < scheme->budget->count; i++)
        found |= is_fixed(&scheme->budget->candidates[i].scheme);
    return found && strcmp(word, "static") == 0;
}

int64_t qp_spec_group(const struct qp_quant_spec *spec, int64_t cols)
{
    if (spec->granularity == QP_PER_TENSOR)
        return 0;
    bool grouped = spec->granularity == QP_PER_GROUP || spec->granularity == QP_PER_BLOCK;
    return grouped && spec->group < cols ? spec->group : cols;
}

/* Writes the divisors of `cols` that kernels like (16 and the multiples of 32), at most a dozen; all but 1 if there are
 * none of those. */
static const char *divisors(int64_t cols, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int fallback = 0; fallback < 2 && at == 0; fallback++)
        for (int64_t d = 2, listed = 0; d <= cols && listed < 12 && at < size; d++)
            if (cols % d == 0 && (fallback || d == 16 || d % 32 == 0)) {
                at += (size_t)snprintf(text + at, size - at, "%s%lld", at ? ", " : "", (long long)d);
                listed++;
            }
    return text;
}

static int check_weights(const struct qp_quant_spec *w, const char *module, int64_t cols, struct qp_error *err)
{
    char text[256];
    if (w->granularity != QP_PER_GROUP || w->ragged || cols % w->group == 0)
        return 0;
    if (w->format.scale_dtype == QP_F8_E4M3 || w->format.scale_dtype == QP_F8_E8M0)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: its %lld columns are no multiple of %lld, the group of this format; leave it as it is by a "
                       "rule, or give it an int or fp8 format",
                       module, (long long)cols, (long long)w->group);
    return qp_fail(err, QP_ERR_INPUT,
                   "%s: group %lld does not divide its %lld columns; %lld is divisible by %s: use one of these, or "
                   "ragged: true for a short last group",
                   module, (long long)w->group, (long long)cols, (long long)cols, divisors(cols, text, sizeof text));
}

static int check_activations(const struct qp_quant_spec *a, const char *module, int64_t cols, struct qp_error *err)
{
    char text[256];
    if (!a->enabled || a->granularity != QP_PER_GROUP || cols % a->group == 0)
        return 0;
    return qp_fail(err, QP_ERR_INPUT,
                   "%s: group %lld of its activations does not divide its %lld columns; %lld is divisible by %s: use "
                   "one of these, or granularity: token",
                   module, (long long)a->group, (long long)cols, (long long)cols, divisors(cols, text, sizeof text));
}

int qp_scheme_check(const struct qp_linear_scheme *scheme, const char *module, int64_t rows, int64_t cols,
                    struct qp_error *err)
{
    if (rows < 1 || cols < 1)
        return qp_fail(err, QP_ERR_INPUT, "%s: [%lld, %lld] is no matrix to quantize", module, (long long)rows,
                       (long long)cols);
    int r = check_weights(&scheme->weights, module, cols, err);
    return r < 0 ? r : check_activations(&scheme->activations, module, cols, err);
}
