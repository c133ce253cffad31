/* The published schemas of messages and the tables that the code checks messages with say the same. */
#include <criterion/criterion.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/message.h"

static const struct {
    const char *name;
    enum qp_speaker speaker;
} speakers[] = {{"stage-", QP_FROM_STAGE},
                {"runner-", QP_FROM_RUNNER},
                {"consumer-", QP_FROM_CONSUMER},
                {"producer-", QP_FROM_PRODUCER}};

/* Some value of the type that a property has. */
static json_t *sample(const json_t *property)
{
    const json_t *type = json_object_get(property, "type");
    const char *name = json_string_value(json_is_array(type) ? json_array_get(type, 0) : type);
    if (!name || strcmp(name, "string") == 0)
        return json_string("text");
    if (strcmp(name, "number") == 0)
        return json_real(0.5);
    if (strcmp(name, "integer") == 0)
        return json_integer(1);
    if (strcmp(name, "array") == 0)
        return json_array();
    cr_assert_str_eq(name, "object");
    return json_object();
}

static void check_kind(enum qp_speaker speaker, const char *kind, json_t *schema)
{
    struct qp_error err = {0};
    const char *key;
    json_t *property;
    void *next;
    qp_auto_json json_t *body = json_object();
    json_object_foreach(json_object_get(schema, "properties"), key, property)
        json_object_set_new(body, key, sample(property));
    cr_assert_eq(qp_message_check(speaker, kind, body, &err), 0, "%s: %s", kind, err.message);
    cr_expect_eq(json_array_size(json_object_get(schema, "required")), json_object_size(body), "%s", kind);
    json_object_foreach_safe(json_object_get(schema, "properties"), next, key, property)
    {
        qp_auto_json json_t *less = json_copy(body);
        json_object_del(less, key);
        cr_expect_eq(qp_message_check(speaker, kind, less, &err), QP_ERR_STAGE, "%s without %s", kind, key);
    }
    json_object_set_new(body, "x-note", json_null());
    cr_expect_eq(qp_message_check(speaker, kind, body, &err), 0, "%s with x-note", kind);
    json_object_set_new(body, "surplus", json_null());
    cr_expect_eq(qp_message_check(speaker, kind, body, &err), QP_ERR_STAGE, "%s with another key", kind);
}

static int check_schema(const char *path)
{
    struct qp_error err = {0};
    int kinds = 0;
    const char *name;
    json_t *schema;
    qp_auto_json json_t *file = NULL;
    cr_assert_eq(qp_read_json(path, 1 << 20, &file, &err), 0, "%s", err.message);
    json_object_foreach(json_object_get(file, "$defs"), name, schema)
        for (size_t i = 0; i < 4; i++) {
            size_t n = strlen(speakers[i].name);
            if (strncmp(name, speakers[i].name, n) == 0) {
                check_kind(speakers[i].speaker, name + n, schema);
                kinds++;
            }
        }
    return kinds;
}

Test(schemas, agree_with_the_code)
{
    cr_expect_eq(check_schema(SOURCE_DIR "/schemas/control.schema.json"), 15);
    cr_expect_eq(check_schema(SOURCE_DIR "/schemas/message.schema.json"), 7);
}
