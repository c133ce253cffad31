/* What is odd about a scheme before anything is computed. */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "runner/pipeline/prepare.h"

static int warn(const struct qp_branch *b, json_t *warnings, const char *code, const char *where, json_t *message,
                struct qp_error *err)
{
    json_t *warning =
        json_pack("{s:s, s:s, s:o, s:s}", "code", code, "where", where, "message", message, "scheme", b->name);
    if (!warning || json_array_append_new(warnings, warning) < 0)
        return qp_fail_memory(err, 0, "a warning");
    return 0;
}

/* Calls for each linear of the decoder layers, in order; stops when `see` returns true. */
static bool any_linear(const struct qp_arch *arch, bool (*see)(const char *module, const void *context),
                       const void *context)
{
    char module[256];
    for (int64_t layer = 0; layer < arch->layers; layer++)
        for (int i = 0; i < qp_layer_type(arch, layer)->linear_count; i++)
            if (see(qp_module_name(arch, layer, i, module, sizeof module), context))
                return true;
    return false;
}

static bool matches(const char *module, const void *pattern)
{
    return fnmatch(pattern, module, 0) == 0;
}

struct rule_question {
    const struct qp_scheme *scheme;
    size_t rule;
};

static bool is_ruled(const char *module, const void *context)
{
    const struct rule_question *q = context;
    return qp_scheme_rule_of(q->scheme, module) == q->rule && !qp_scheme_ignores(q->scheme, module);
}

static int check_rule(const struct qp_branch *b, const struct qp_arch *arch, size_t rule, json_t *warnings,
                      struct qp_error *err)
{
    struct rule_question question = {b->scheme, rule};
    const char *match = b->scheme->rules[rule].match;
    if (any_linear(arch, is_ruled, &question))
        return 0;
    bool shadowed = any_linear(arch, matches, match);
    char name[256];
    qp_module_name(arch, 0, qp_layer_type(arch, 0)->linear_count - 1, name, sizeof name);
    json_t *message = shadowed ? json_string("the rule applies to nothing: all that it matches is ignored or taken by "
                                             "the rules before it")
                               : json_sprintf("the rule matches no linear of the model; their names are like %s", name);
    return warn(b, warnings, "rule-unused", match, message, err);
}

static int check_ignore(const struct qp_branch *b, const struct qp_arch *arch, const char *pattern, json_t *warnings,
                        struct qp_error *err)
{
    if (matches(arch->head, pattern) || matches(arch->embedding, pattern) || any_linear(arch, matches, pattern))
        return 0;
    return warn(b, warnings, "ignore-unused", pattern,
                json_string("the pattern of `ignore` matches nothing in the model: what it is meant for is quantized"),
                err);
}

/* Left as it is though no rule and no pattern of `ignore` speaks of it. */
static bool is_forgotten(const struct qp_scheme *s, const char *module)
{
    return !qp_scheme_for(s, module) && !qp_scheme_ignores(s, module) && qp_scheme_rule_of(s, module) == QP_NO_MATCH;
}

static bool has_linear(const struct qp_arch *arch, int64_t layer, int linear)
{
    return linear < qp_layer_type(arch, layer)->linear_count;
}

static bool forgets(const struct qp_scheme *s, const struct qp_arch *arch, int64_t layer, int linear)
{
    char module[256];
    return has_linear(arch, layer, linear) &&
           is_forgotten(s, qp_module_name(arch, layer, linear, module, sizeof module));
}

/* One warning for a linear that is forgotten in every layer, else one a layer. */
static int check_linear(const struct qp_branch *b, const struct qp_arch *arch, int linear, json_t *warnings,
                        struct qp_error *err)
{
    char module[256];
    int64_t forgotten = 0, there = 0, warned = 0;
    int r = 0;
    for (int64_t layer = 0; layer < arch->layers; layer++) {
        there += has_linear(arch, layer, linear);
        forgotten += forgets(b->scheme, arch, layer, linear);
    }
    bool all = forgotten == there;
    for (int64_t layer = 0; r == 0 && forgotten > 0 && warned < (all ? 1 : forgotten); layer++) {
        if (!forgets(b->scheme, arch, layer, linear))
            continue;
        warned++;
        qp_module_name(arch, layer, linear, module, sizeof module);
        json_t *message = json_sprintf("no rule of the scheme speaks of it%s: it stays as it is; add it to a rule, or "
                                       "to `ignore`",
                                       all ? ", nor of its like in any other layer" : "");
        r = warn(b, warnings, "layer-unmatched", module, message, err);
    }
    return r;
}

int qp_scheme_warnings(const struct qp_branch *branch, const struct qp_arch *arch, json_t *warnings,
                       struct qp_error *err)
{
    const struct qp_scheme *s = branch->scheme;
    int r = 0;
    for (size_t i = 0; r == 0 && i < s->rule_count; i++)
        r = check_rule(branch, arch, i, warnings, err);
    for (size_t i = 0; r == 0 && i < s->ignore_count; i++)
        r = check_ignore(branch, arch, s->ignore[i], warnings, err);
    bool chosen_later = json_object_get(branch->source, "budget") != NULL;
    for (int i = 0; r == 0 && !chosen_later && i < qp_arch_most_linears(arch); i++)
        r = check_linear(branch, arch, i, warnings, err);
    return r;
}
