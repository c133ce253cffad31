#include "libstage/wire/message.h"

#include <stdbool.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/codec.h"

struct kind {
    enum qp_speaker speaker;
    const char *name;
    size_t limit;           /* bytes of the header */
    const char *fields[16]; /* ends with NULL */
};

static const struct kind kinds[] = {
    {QP_FROM_STAGE,
     "hello",
     QP_SMALL_HEADER_LIMIT,
     {"protocol:i", "stage:s", "version:i", "pid:i", "host:s", "hostname:s", "endpoints:o", "gpus:a"}},
    {QP_FROM_STAGE, "ready", QP_SMALL_HEADER_LIMIT, {NULL}},
    {QP_FROM_STAGE, "heartbeat", QP_SMALL_HEADER_LIMIT, {"rss_bytes:i"}},
    {QP_FROM_STAGE, "progress", QP_SMALL_HEADER_LIMIT, {"done:i", "total:i"}},
    {QP_FROM_STAGE, "busy", QP_SMALL_HEADER_LIMIT, {"unit:i0", "cpu_seconds:n"}},
    {QP_FROM_STAGE, "waits", QP_SMALL_HEADER_LIMIT, {"edge:s", "what:s", "seq:i", "moved:i"}},
    {QP_FROM_STAGE, "report", QP_HEADER_LIMIT, {"key:s", "value:*"}},
    {QP_FROM_STAGE, "warning", QP_SMALL_HEADER_LIMIT, {"code:s", "where:s", "message:s"}},
    {QP_FROM_STAGE, "log", QP_SMALL_HEADER_LIMIT, {"level:s", "message:s"}},
    {QP_FROM_STAGE, "failed", QP_SMALL_HEADER_LIMIT, {"code:i", "message:s", "seq:i0"}},
    {QP_FROM_STAGE, "done", QP_SMALL_HEADER_LIMIT, {"stage:o", "edges:a"}},
    {QP_FROM_RUNNER,
     "config",
     QP_HEADER_LIMIT,
     {"run:s", "params:o", "wants:a", "context:o", "inputs:a", "outputs:a", "scratch:s", "roots:a", "threads:i",
      "memory:i", "blocks:i", "drops:a"}},
    {QP_FROM_RUNNER, "threads", QP_SMALL_HEADER_LIMIT, {"threads:i"}},
    {QP_FROM_RUNNER, "stop", QP_SMALL_HEADER_LIMIT, {NULL}},
    {QP_FROM_RUNNER, "bye", QP_SMALL_HEADER_LIMIT, {NULL}},
    {QP_FROM_CONSUMER,
     "hello",
     QP_SMALL_HEADER_LIMIT,
     {"protocol:i", "run:s", "edge:s", "instance:s", "replica:i", "host:s"}},
    {QP_FROM_CONSUMER, "credit", QP_SMALL_HEADER_LIMIT, {"bytes:i", "units:i"}},
    {QP_FROM_CONSUMER, "ack", QP_SMALL_HEADER_LIMIT, {"seq:i"}},
    {QP_FROM_CONSUMER, "release", QP_SMALL_HEADER_LIMIT, {"seq:i", "tensors:a"}},
    {QP_FROM_PRODUCER, "unit", QP_HEADER_LIMIT, {"kind:s", "seq:i", "units:i", "attrs:o", "tensors:a"}},
    {QP_FROM_PRODUCER, "header", QP_SMALL_HEADER_LIMIT, {"seq:i", "bytes:i", "offset:i"}},
    {QP_FROM_PRODUCER, "chunk", QP_SMALL_HEADER_LIMIT, {"seq:i", "tensor:i", "offset:i"}},
};

static const struct kind *find_kind(enum qp_speaker speaker, const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (kinds[i].speaker == speaker && strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

/* The types of fields, by their letters. */
static const struct {
    char letter;
    const char *name;
} type_names[] = {{'s', "a string"}, {'i', "an integer at least 0"},
                  {'n', "a number"}, {'b', "a boolean"},
                  {'o', "a map"},    {'a', "an array"},
                  {'0', "nil"}};

static char type_of(const json_t *value)
{
    return json_is_string(value)    ? 's'
           : json_is_integer(value) ? 'i'
           : json_is_real(value)    ? 'n'
           : json_is_boolean(value) ? 'b'
           : json_is_object(value)  ? 'o'
           : json_is_array(value)   ? 'a'
                                    : '0';
}

static bool has_type(const json_t *value, const char *types)
{
    char type = type_of(value);
    if (strchr(types, '*') || (type == 'i' && strchr(types, 'n')))
        return true;
    return strchr(types, type) && (type != 'i' || json_integer_value(value) >= 0);
}

/* "an integer at least 0 or nil" */
static const char *types_text(const char *types, char *text, size_t size)
{
    text[0] = '\0';
    for (size_t i = 0; i < sizeof type_names / sizeof *type_names; i++)
        if (strchr(types, type_names[i].letter))
            snprintf(text + strlen(text), size - strlen(text), "%s%s", *text ? " or " : "", type_names[i].name);
    return text;
}

static int fail_type(const char *where, const char *key, const json_t *value, const char *types, struct qp_error *err)
{
    char expected[128], found[64], type[2] = {type_of(value), '\0'};
    if (json_is_integer(value))
        snprintf(found, sizeof found, "%lld", (long long)json_integer_value(value));
    else
        types_text(type, found, sizeof found);
    return qp_fail(err, QP_ERR_STAGE, "%s: the key %s has the wrong type: found %s, expected %s", where, key, found,
                   types_text(types, expected, sizeof expected));
}

static bool is_known(const char *key, const char *const *fields)
{
    size_t n = strlen(key);
    for (; *fields; fields++)
        if (strcspn(*fields, ":") == n && strncmp(*fields, key, n) == 0)
            return true;
    return strncmp(key, "x-", 2) == 0;
}

int qp_fields_check(const json_t *object, const char *const *fields, const char *where, struct qp_error *err)
{
    for (const char *const *field = fields; *field; field++) {
        char name[32];
        size_t n = strcspn(*field, ":");
        snprintf(name, sizeof name, "%.*s", (int)n, *field);
        const json_t *value = json_object_get(object, name);
        if (!value && !strchr(*field + n, '?'))
            return qp_fail(err, QP_ERR_STAGE, "%s: the key %s is missing", where, name);
        if (value && !has_type(value, *field + n))
            return fail_type(where, name, value, *field + n, err);
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        if (!is_known(key, fields))
            return qp_fail(err, QP_ERR_STAGE, "%s: the key %.80s is not known to this version", where, key);
    }
    return 0;
}

int qp_message_check(enum qp_speaker speaker, const char *kind, const json_t *body, struct qp_error *err)
{
    const struct kind *k = find_kind(speaker, kind);
    if (!k || !json_is_object(body))
        return qp_fail(err, QP_ERR_STAGE, "a message of unknown kind %.40s", kind);
    return qp_fields_check(body, k->fields, k->name, err);
}

/* Reads the envelope of a message of at most `most` bytes. */
static int unpack_header(const void *data, size_t size, size_t most, json_t **out, struct qp_error *err)
{
    static const char *const envelope[] = {"kind:s", "body:o", NULL};
    if (size > most)
        return qp_fail(err, QP_ERR_STAGE, "a header of %zu bytes; at most %zu are accepted", size, most);
    qp_auto_json json_t *header = NULL;
    int r = qp_codec_unpack(data, size, &header, err);
    if (r == 0 && !json_is_object(header))
        r = qp_fail(err, QP_ERR_STAGE, "a header that is not a map");
    if (r == 0)
        r = qp_fields_check(header, envelope, "header", err);
    if (r == 0)
        *out = json_incref(header);
    return r;
}

int qp_unit_message_unpack(const void *data, size_t size, json_t **body, struct qp_error *err)
{
    qp_auto_json json_t *header = NULL;
    int r = unpack_header(data, size, QP_UNIT_HEADER_LIMIT, &header, err);
    if (r < 0)
        return r;
    json_t *content = json_object_get(header, "body");
    if (strcmp(json_string_value(json_object_get(header, "kind")), "unit") != 0)
        return qp_fail(err, QP_ERR_STAGE, "a header in parts that is not a unit's");
    r = qp_message_check(QP_FROM_PRODUCER, "unit", content, err);
    if (r == 0)
        *body = json_incref(content);
    return r;
}

int qp_message_unpack(enum qp_speaker speaker, const void *data, size_t size, const char **kind, json_t **body,
                      struct qp_error *err)
{
    qp_auto_json json_t *header = NULL;
    int r = unpack_header(data, size, QP_HEADER_LIMIT, &header, err);
    if (r < 0)
        return r;
    const char *name = json_string_value(json_object_get(header, "kind"));
    const struct kind *k = find_kind(speaker, name);
    if (!k)
        return qp_fail(err, QP_ERR_STAGE, "a message of unknown kind %.40s", name);
    if (size > k->limit)
        return qp_fail(err, QP_ERR_STAGE, "%s: a header of %zu bytes; at most %zu are accepted", name, size, k->limit);
    json_t *content = json_object_get(header, "body");
    r = qp_fields_check(content, k->fields, k->name, err);
    if (r < 0)
        return r;
    *kind = k->name;
    *body = json_incref(content);
    return 0;
}

int qp_message_pack(const char *kind, const json_t *body, msgpack_sbuffer *out, struct qp_error *err)
{
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, msgpack_sbuffer_write);
    msgpack_pack_map(&packer, 2);
    qp_codec_pack_string(&packer, "kind");
    qp_codec_pack_string(&packer, kind);
    qp_codec_pack_string(&packer, "body");
    int r = 0;
    if (body)
        r = qp_codec_pack(body, out, err);
    else
        msgpack_pack_map(&packer, 0);
    if (r == 0 && out->size > QP_HEADER_LIMIT)
        r = qp_fail(err, QP_ERR_INPUT, "a %s message of %zu bytes; at most %d can be sent", kind, out->size,
                    QP_HEADER_LIMIT);
    return r;
}
