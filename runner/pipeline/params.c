/* `with` against a stage's parameter table. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "runner/pipeline/graph.h"
#include "runner/pipeline/renamed.h"

#define MAX_NAMES 256

/* Texts of an array, or of `member` of its objects, for qp_nearest and messages. */
static size_t list_names(const json_t *array, const char *member, const char *names[MAX_NAMES])
{
    size_t i, count = 0;
    json_t *item;
    json_array_foreach(array, i, item)
        if (count < MAX_NAMES)
            names[count++] = json_string_value(member ? json_object_get(item, member) : item);
    return count;
}

static void join(const char *const *names, size_t count, char *text, size_t size)
{
    text[0] = '\0';
    for (size_t i = 0; i < count; i++)
        snprintf(text + strlen(text), size - strlen(text), "%s%s", i ? ", " : "", names[i]);
}

static int unknown(const struct qp_document *d, const struct qp_instance *in, const char *path, const char *name,
                   struct qp_error *err)
{
    const char *names[MAX_NAMES];
    char list[640];
    size_t count = list_names(json_object_get(in->descriptor, "params"), "name", names);
    join(names, count, list, sizeof list);
    const char *near = qp_nearest(name, names, count);
    return qp_document_fail_key(d, path, err, "stage `%s` (%s) has no parameter `%.60s`%s%s%s; %s%s", in->name,
                                json_string_value(json_object_get(in->descriptor, "name")), name,
                                near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "",
                                count ? "it has: " : "it has none", list);
}

/* 5% and 0.05 are the same fraction; NAN when the value is neither. */
static double read_percent(const json_t *value)
{
    if (json_is_number(value))
        return json_number_value(value);
    const char *text = json_string_value(value);
    char *end = NULL;
    double number = text && strspn(text, "+-.0123456789") > 0 ? strtod(text, &end) : NAN;
    return end && strcmp(end, "%") == 0 ? number / 100 : NAN;
}

static bool fits_type(const char *type, const json_t *value)
{
    if (strcmp(type, "bool") == 0)
        return json_is_boolean(value);
    if (strcmp(type, "int") == 0)
        return json_is_integer(value);
    if (strcmp(type, "float") == 0)
        return json_is_number(value);
    if (strcmp(type, "percent") == 0)
        return !isnan(read_percent(value));
    return json_is_string(value);
}

static const char *type_text(const char *type)
{
    return strcmp(type, "bool") == 0      ? "true or false"
           : strcmp(type, "int") == 0     ? "a whole number"
           : strcmp(type, "float") == 0   ? "a number"
           : strcmp(type, "percent") == 0 ? "a percentage, as 5% or 0.05"
                                          : "text (in quotes, if it looks like something else)";
}

static int check_range(const struct qp_document *d, const char *path, const json_t *param, const json_t *value,
                       struct qp_error *err)
{
    double min = json_number_value(json_object_get(param, "min"));
    double max = json_number_value(json_object_get(param, "max"));
    const char *type = json_string_value(json_object_get(param, "type"));
    double number = strcmp(type, "percent") == 0 ? read_percent(value) : json_number_value(value);
    if (strcmp(type, "string") == 0 || strcmp(type, "bool") == 0 || (min == 0 && max == 0) ||
        (number >= min && number <= max))
        return 0;
    return qp_document_fail(d, path, err, "`%s` is %g; expected a value from %g to %g",
                            json_string_value(json_object_get(param, "name")), number, min, max);
}

static int check_choice(const struct qp_document *d, const char *path, const json_t *param, const json_t *value,
                        struct qp_error *err)
{
    const char *names[MAX_NAMES], *text = json_string_value(value);
    char list[640];
    size_t count = list_names(json_object_get(param, "choices"), NULL, names);
    for (size_t i = 0; text && i < count; i++)
        if (strcmp(names[i], text) == 0)
            return 0;
    if (count == 0 || !text)
        return 0;
    join(names, count, list, sizeof list);
    const char *near = qp_nearest(text, names, count);
    return qp_document_fail(d, path, err, "`%s` is `%.60s`%s%s%s; expected one of: %s",
                            json_string_value(json_object_get(param, "name")), text, near ? "; did you mean `" : "",
                            near ? near : "", near ? "`?" : "", list);
}

static int check_one(const struct qp_document *d, const struct qp_instance *in, const char *name, const json_t *value,
                     struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s.with.%s", in->path, name);
    const json_t *param = qp_named(json_object_get(in->descriptor, "params"), "name", name);
    if (!path)
        return qp_fail_memory(err, 0, name);
    if (!param)
        return unknown(d, in, path, name, err);
    const char *type = json_string_value(json_object_get(param, "type"));
    char found[80];
    if (!fits_type(type, value))
        return qp_document_fail(d, path, err, "parameter `%s` of stage `%s` is %s; expected %s", name, in->name,
                                qp_json_found(value, found, sizeof found), type_text(type));
    int r = check_range(d, path, param, value, err);
    return r < 0 ? r : check_choice(d, path, param, value, err);
}

int qp_params_check(const struct qp_pipeline *pipeline, const struct qp_instance *instance, struct qp_error *err)
{
    const char *name;
    json_t *value;
    int r = qp_params_rename(pipeline, instance, err);
    json_object_foreach(instance->params, name, value)
        if (r == 0)
            r = check_one(pipeline->document, instance, name, value, err);
    return r;
}
