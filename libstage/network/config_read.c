#include "libstage/network/config_read.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool qp_config_has(const struct qp_config_object *o, const char *key)
{
    const json_t *value = json_object_get(o->json, key);
    return value && !json_is_null(value);
}

int qp_config_wrong(const struct qp_config_object *o, const char *key, const char *expected, struct qp_error *err)
{
    const json_t *value = json_object_get(o->json, key);
    char found[80] = "nothing";
    if (value && json_dumpb(value, found, 0, JSON_ENCODE_ANY) < sizeof found)
        found[json_dumpb(value, found, sizeof found - 1, JSON_ENCODE_ANY)] = '\0';
    else if (value)
        snprintf(found, sizeof found, "a longer value");
    return qp_fail(err, QP_ERR_INPUT, "%s: %s%s: found %s, expected %s", o->path, o->prefix, key, found, expected);
}

int qp_config_int(const struct qp_config_object *o, const char *key, int64_t fallback, int64_t min, int64_t max,
                  int64_t *out, struct qp_error *err)
{
    char expected[80];
    if (!qp_config_has(o, key) && fallback >= min) {
        *out = fallback;
        return 0;
    }
    const json_t *value = json_object_get(o->json, key);
    *out = json_integer_value(value);
    if (json_is_integer(value) && *out >= min && *out <= max)
        return 0;
    snprintf(expected, sizeof expected, "a whole number of %lld to %lld", (long long)min, (long long)max);
    return qp_config_wrong(o, key, expected, err);
}

int qp_config_real(const struct qp_config_object *o, const char *key, double fallback, double *out,
                   struct qp_error *err)
{
    *out = qp_config_has(o, key) ? json_number_value(json_object_get(o->json, key)) : fallback;
    return isfinite(*out) && *out > 0.0 ? 0 : qp_config_wrong(o, key, "a number above 0", err);
}

int qp_config_flag(const struct qp_config_object *o, const struct qp_flag *flag, bool *out, struct qp_error *err)
{
    const char *key = flag->key;
    *out = flag->fallback;
    if (!key || !qp_config_has(o, key))
        return 0;
    *out = json_is_true(json_object_get(o->json, key));
    return json_is_boolean(json_object_get(o->json, key)) ? 0 : qp_config_wrong(o, key, "true or false", err);
}

int qp_config_string(const struct qp_config_object *o, const char *key, const char *fallback, const char **out,
                     struct qp_error *err)
{
    *out = qp_config_has(o, key) ? json_string_value(json_object_get(o->json, key)) : fallback;
    return *out || !qp_config_has(o, key) ? 0 : qp_config_wrong(o, key, "a string", err);
}

int qp_config_number(const struct qp_config_object *o, const struct qp_number *number, double *out,
                     struct qp_error *err)
{
    *out = number->fallback;
    if (!number->key || !qp_config_has(o, number->key))
        return 0;
    return qp_config_real(o, number->key, 0, out, err);
}
