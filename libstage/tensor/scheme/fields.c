#include "libstage/tensor/scheme/fields.h"

#include <stdio.h>

#include "libstage/base/words.h"

#define MAX_SIZE (1 << 20)

static const char *type_name(const json_t *value)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "a mapping",   [JSON_ARRAY] = "a list",  [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number", [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean",    [JSON_NULL] = "nothing"};
    return value ? names[json_typeof(value)] : "nothing";
}

int qp_scheme_wrong_type(const json_t *value, const char *path, const char *key, const char *expected,
                         struct qp_error *err)
{
    return qp_fail(err, QP_ERR_INPUT, "%s%s%s: found %s, expected %s", path, *key ? "." : "", key, type_name(value),
                   expected);
}

int qp_scheme_check_keys(const json_t *value, const char *path, const char *const *known, struct qp_error *err)
{
    if (!json_is_object(value))
        return qp_scheme_wrong_type(value, path, "", "a mapping", err);
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
        if (!qp_known(key, known))
            return qp_fail_unknown(err, QP_ERR_INPUT, path, "key", key, known);
    return 0;
}

int qp_scheme_string(const json_t *object, const char *path, const char *key, const char **out, struct qp_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_string(value))
        return qp_scheme_wrong_type(value, path, key, "a string", err);
    if (value)
        *out = json_string_value(value);
    return 0;
}

int qp_scheme_bool(const json_t *object, const char *path, const char *key, bool *out, struct qp_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_boolean(value))
        return qp_scheme_wrong_type(value, path, key, "true or false", err);
    if (value)
        *out = json_is_true(value);
    return 0;
}

int qp_scheme_word(const json_t *object, const char *path, const char *key, const char *const *known, const char **out,
                   struct qp_error *err)
{
    const char *word = NULL;
    char where[QP_SCHEME_PATH + 16];
    if (qp_scheme_string(object, path, key, &word, err) < 0)
        return QP_ERR_INPUT;
    if (!word)
        return 0;
    snprintf(where, sizeof where, "%s.%s", path, key);
    if (!qp_known(word, known))
        return qp_fail_unknown(err, QP_ERR_INPUT, where, key, word, known);
    *out = word;
    return 0;
}

int qp_scheme_check_size(const json_t *value, const char *path, const char *key, int64_t *out, struct qp_error *err)
{
    if (!json_is_integer(value))
        return qp_scheme_wrong_type(value, path, key, "an integer", err);
    int64_t size = json_integer_value(value);
    if (size < 1 || size > MAX_SIZE)
        return qp_fail(err, QP_ERR_INPUT, "%s.%s: found %lld, expected 1 to %d", path, key, (long long)size, MAX_SIZE);
    *out = size;
    return 0;
}

int qp_scheme_size(const json_t *object, const char *path, const char *key, int64_t *out, struct qp_error *err)
{
    const json_t *value = json_object_get(object, key);
    return value ? qp_scheme_check_size(value, path, key, out, err) : 0;
}
