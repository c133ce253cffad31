#include "libstage/base/schema.h"

#include <regex.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_TEXT 300

struct checker {
    const json_t *root;
    char path[PATH_MAX_TEXT];
    struct qp_error *err;
};

static int check_value(struct checker *c, const json_t *schema, const json_t *value);

/* A value as JSON, shortened. */
static const char *value_text(const json_t *value, char *out, size_t size)
{
    char *dumped = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_SORT_KEYS);
    snprintf(out, size, "%.60s%s", dumped ? dumped : "?", dumped && strlen(dumped) > 60 ? " ..." : "");
    free(dumped);
    return out;
}

static int refuse(struct checker *c, const json_t *value, const char *expected)
{
    char found[80];
    return qp_fail(c->err, QP_ERR_INPUT, "%s: found %s, expected %s", c->path, value_text(value, found, sizeof found),
                   expected);
}

/* Goes on below `part`, and comes back. */
static int check_below(struct checker *c, const char *part, const json_t *schema, const json_t *value)
{
    size_t n = strlen(c->path);
    snprintf(c->path + n, sizeof c->path - n, "%s", part);
    int r = check_value(c, schema, value);
    c->path[n] = '\0';
    return r;
}

/* ---- keywords ---- */

static bool has_type(const json_t *value, const char *type)
{
    return strcmp(type, "string") == 0    ? json_is_string(value)
           : strcmp(type, "integer") == 0 ? json_is_integer(value)
           : strcmp(type, "number") == 0  ? json_is_number(value)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(value)
           : strcmp(type, "object") == 0  ? json_is_object(value)
           : strcmp(type, "array") == 0   ? json_is_array(value)
                                          : strcmp(type, "null") == 0 && json_is_null(value);
}

static int check_type(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    char list[120] = "";
    size_t i;
    const json_t *type;
    if (json_is_string(rule))
        return has_type(value, json_string_value(rule)) ? 0 : refuse(c, value, json_string_value(rule));
    json_array_foreach(rule, i, type) {
        if (has_type(value, json_string_value(type)))
            return 0;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? " or " : "", json_string_value(type));
    }
    return refuse(c, value, list);
}

static int check_const(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    char expected[80];
    return json_equal(rule, value) ? 0 : refuse(c, value, value_text(rule, expected, sizeof expected));
}

static int check_enum(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    char list[400] = "one of", one[80];
    size_t i;
    const json_t *choice;
    json_array_foreach(rule, i, choice) {
        if (json_equal(choice, value))
            return 0;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s %s", i ? "," : "",
                 value_text(choice, one, sizeof one));
    }
    return refuse(c, value, list);
}

static int check_minimum(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    char expected[48];
    snprintf(expected, sizeof expected, "%g or more", json_number_value(rule));
    return !json_is_number(value) || json_number_value(value) >= json_number_value(rule) ? 0
                                                                                         : refuse(c, value, expected);
}

static bool matches(const char *pattern, const char *string)
{
    regex_t compiled;
    if (!string || regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB) != 0)
        return false;
    bool found = regexec(&compiled, string, 0, NULL, 0) == 0;
    regfree(&compiled);
    return found;
}

static int check_pattern(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    return !json_is_string(value) || matches(json_string_value(rule), json_string_value(value))
               ? 0
               : refuse(c, value, json_string_value(rule));
}

static int check_length(struct checker *c, const json_t *rule, const json_t *value, bool most)
{
    char expected[48];
    json_int_t count = (json_int_t)json_array_size(value), limit = json_integer_value(rule);
    snprintf(expected, sizeof expected, "at %s %lld elements", most ? "most" : "least", (long long)limit);
    return !json_is_array(value) || (most ? count <= limit : count >= limit) ? 0 : refuse(c, value, expected);
}

static int check_most(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    return check_length(c, rule, value, true);
}

static int check_least(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    return check_length(c, rule, value, false);
}

static int check_min_length(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    return !json_is_string(value) || (json_int_t)json_string_length(value) >= json_integer_value(rule)
               ? 0
               : refuse(c, value, "text that is not empty");
}

static int check_items(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    size_t i;
    const json_t *item;
    json_array_foreach(value, i, item) {
        char part[32];
        snprintf(part, sizeof part, "[%zu]", i);
        if (check_below(c, part, rule, item) < 0)
            return c->err->code;
    }
    return 0;
}

static int check_required(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    size_t i;
    const json_t *name;
    json_array_foreach(rule, i, name)
        if (json_is_object(value) && !json_object_get(value, json_string_value(name)))
            return qp_fail(c->err, QP_ERR_INPUT, "%s: the key `%s` is missing", c->path, json_string_value(name));
    return 0;
}

static bool has_pattern(const json_t *schema, const char *key)
{
    const char *pattern;
    json_t *unused;
    json_object_foreach(json_object_get(schema, "patternProperties"), pattern, unused)
        if (matches(pattern, key))
            return true;
    return false;
}

static int check_properties(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member) {
        char part[80];
        const json_t *property = json_object_get(rule, key);
        snprintf(part, sizeof part, ".%.70s", key);
        if (property && check_below(c, part, property, member) < 0)
            return c->err->code;
    }
    return 0;
}

static int check_additional(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member) {
        char part[80];
        snprintf(part, sizeof part, ".%.70s", key);
        if (json_object_get(json_object_get(schema, "properties"), key) || has_pattern(schema, key))
            continue;
        if (json_is_false(rule))
            return qp_fail(c->err, QP_ERR_INPUT, "%s: the key `%.70s` is not known", c->path, key);
        if (check_below(c, part, rule, member) < 0)
            return c->err->code;
    }
    return 0;
}

static int check_one_of(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    size_t i, good = 0;
    const json_t *choice;
    struct qp_error *err = c->err, unused;
    c->err = &unused;
    json_array_foreach(rule, i, choice)
        good += check_value(c, choice, value) == 0;
    c->err = err;
    return good == 1 ? 0 : refuse(c, value, "one of the forms that the schema gives");
}

/* `then` and `else` are read here. */
static int check_if(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    struct qp_error *err = c->err, unused;
    c->err = &unused;
    bool is = check_value(c, rule, value) == 0;
    c->err = err;
    const json_t *next = json_object_get(schema, is ? "then" : "else");
    return next ? check_value(c, next, value) : 0;
}

static int check_reference(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)schema;
    const char *name = json_string_value(rule), *prefix = "#/$defs/";
    const json_t *target = strncmp(name, prefix, strlen(prefix)) == 0
                               ? json_object_get(json_object_get(c->root, "$defs"), name + strlen(prefix))
                               : NULL;
    return target ? check_value(c, target, value) : qp_fail(c->err, QP_ERR_STAGE, "schema: %s is not there", name);
}

/* Of other keywords: read with another one, or words for people. */
static int pass(struct checker *c, const json_t *schema, const json_t *rule, const json_t *value)
{
    (void)c;
    (void)schema;
    (void)rule;
    (void)value;
    return 0;
}

static const struct {
    const char *name;
    int (*check)(struct checker *, const json_t *schema, const json_t *rule, const json_t *value);
} keywords[] = {{"type", check_type},
                {"const", check_const},
                {"enum", check_enum},
                {"minimum", check_minimum},
                {"pattern", check_pattern},
                {"minLength", check_min_length},
                {"minItems", check_least},
                {"maxItems", check_most},
                {"items", check_items},
                {"required", check_required},
                {"properties", check_properties},
                {"additionalProperties", check_additional},
                {"oneOf", check_one_of},
                {"if", check_if},
                {"$ref", check_reference},
                {"patternProperties", pass},
                {"then", pass},
                {"else", pass},
                {"title", pass},
                {"description", pass},
                {"$schema", pass},
                {"$id", pass},
                {"$defs", pass}};

static int check_value(struct checker *c, const json_t *schema, const json_t *value)
{
    const char *word;
    json_t *rule;
    if (json_is_true(schema))
        return 0;
    json_object_foreach((json_t *)schema, word, rule) {
        size_t i = 0, count = sizeof keywords / sizeof *keywords;
        while (i < count && strcmp(keywords[i].name, word) != 0)
            i++;
        if (i == count)
            return qp_fail(c->err, QP_ERR_STAGE, "schema: the keyword %s is not known", word);
        if (keywords[i].check(c, schema, rule, value) < 0)
            return c->err->code;
    }
    return 0;
}

int qp_schema_check(const json_t *schema, const char *definition, const json_t *value, const char *what,
                    struct qp_error *err)
{
    struct qp_error local;
    struct checker c = {.root = schema, .err = err ? err : &local};
    snprintf(c.path, sizeof c.path, "%s", what);
    const json_t *part = definition ? json_object_get(json_object_get(schema, "$defs"), definition) : schema;
    return part ? check_value(&c, part, value)
                : qp_fail(c.err, QP_ERR_STAGE, "schema: there is no definition %s", definition);
}
