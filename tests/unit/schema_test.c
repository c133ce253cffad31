/* The runner takes what schemas/ allow and refuses what they forbid: values that the package jsonschema has judged
 * (tests/unit/golden/schemas.py), at the runner's own doors. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/schema.h"
#include "runner/pipeline/descriptor.h"
#include "runner/pipeline/schemas.h"

static const char *text(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* What the runner says of a value where one of that definition comes in. */
static int received(const char *definition, const json_t *value, struct qp_error *err)
{
    return definition ? qp_control_body_check(definition + strlen("stage-"), value, err)
                      : qp_descriptor_check(value, err);
}

static json_t *member(json_t *value, const json_t *key)
{
    return json_is_string(key) ? json_object_get(value, json_string_value(key))
                               : json_array_get(value, (size_t)json_integer_value(key));
}

/* change: [path, value], or [path] for a key that goes. */
static json_t *change(const json_t *value, const json_t *change)
{
    json_t *copy = json_deep_copy(value), *at = copy;
    const json_t *path = json_array_get(change, 0);
    size_t last = json_array_size(path) - 1;
    for (size_t i = 0; i < last; i++)
        at = member(at, json_array_get(path, i));
    const json_t *key = json_array_get(path, last);
    json_t *new = json_array_get(change, 1);
    if (json_is_integer(key))
        json_array_set(at, (size_t)json_integer_value(key), new);
    else if (new)
        json_object_set(at, json_string_value(key), new);
    else
        json_object_del(at, json_string_value(key));
    return copy;
}

static size_t expect_all(const json_t *row, const char *list, int expected)
{
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(row, list), i, item) {
        struct qp_error err = {0};
        qp_auto_json json_t *value = change(json_object_get(row, "value"), item);
        qp_auto_free char *dumped = json_dumps(item, JSON_COMPACT);
        cr_expect_eq(received(text(row, "definition"), value, &err), expected, "%s: %s: %s", text(row, "definition"),
                     dumped, err.message);
    }
    return i;
}

Test(schemas, are_what_the_runner_takes)
{
    struct qp_error err = {0};
    qp_auto_json json_t *rows = NULL;
    size_t i, count = 0;
    json_t *row;
    cr_assert_eq(qp_read_json(SOURCE_DIR "/tests/unit/golden/schemas.json", 1 << 20, &rows, &err), 0, "%s",
                 err.message);
    json_array_foreach(rows, i, row) {
        cr_expect_eq(received(text(row, "definition"), json_object_get(row, "value"), &err), 0, "%s", err.message);
        count += expect_all(row, "good", 0) + expect_all(row, "bad", QP_ERR_INPUT);
    }
    cr_expect_eq(i, 12);
    cr_expect_gt(count, 1000);
}

Test(schemas, a_message_says_where_and_what)
{
    static const struct {
        const char *schema, *value, *message;
    } rows[] = {
        {"{\"properties\": {\"a\": {\"items\": {\"type\": \"integer\"}}}}", "{\"a\": [1, \"b\"]}",
         "v.a[1]: found \"b\", expected integer"},
        {"{\"type\": [\"string\", \"null\"]}", "[]", "v: found [], expected string or null"},
        {"{\"enum\": [\"x\", 5]}", "6", "v: found 6, expected one of \"x\", 5"},
        {"{\"required\": [\"k\"]}", "{}", "v: the key `k` is missing"},
        {"{\"additionalProperties\": false}", "{\"k\": 1}", "v: the key `k` is not known"},
        {"{\"minimum\": 2}", "1.5", "v: found 1.5, expected 2 or more"},
        {"{\"maxItems\": 1}", "[1, 2]", "expected at most 1 elements"},
        {"{\"$ref\": \"#/$defs/gone\"}", "1", "schema: #/$defs/gone is not there"},
        {"{\"multipleOf\": 2}", "1", "schema: the keyword multipleOf is not known"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct qp_error err = {0};
        qp_auto_json json_t *schema = json_loads(rows[i].schema, 0, NULL);
        qp_auto_json json_t *value = json_loads(rows[i].value, JSON_DECODE_ANY, NULL);
        cr_expect_lt(qp_schema_check(schema, NULL, value, "v", &err), 0, "%s", rows[i].schema);
        cr_expect(strstr(err.message, rows[i].message), "%s", err.message);
    }
}
