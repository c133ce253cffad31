#include <errno.h>
#include <math.h>
#include <string.h>

#include "libstage/base/words.h"
#include "libstage/include/stage.h"

#define MOST_PARAMS 64

static int refuse(struct qp_error *err, const struct qp_param *param, const json_t *value, const char *wanted)
{
    char *found = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    qp_fail(err, QP_ERR_INPUT, "parameter %s: found %.200s, expected %s", param->name, found ? found : "?", wanted);
    free(found);
    return QP_ERR_INPUT;
}

static int out_of_range(struct qp_error *err, const struct qp_param *param, const json_t *value, const char *what)
{
    char wanted[160];
    if (param->min == 0 && param->max == 0)
        snprintf(wanted, sizeof wanted, "%s", what);
    else if (param->type == QP_PARAM_PERCENT)
        snprintf(wanted, sizeof wanted, "%s from %.9g%% to %.9g%%", what, 100 * param->min, 100 * param->max);
    else
        snprintf(wanted, sizeof wanted, "%s from %.12g to %.12g", what, param->min, param->max);
    return refuse(err, param, value, wanted);
}

static bool in_range(const struct qp_param *param, double value)
{
    return isfinite(value) && ((param->min == 0 && param->max == 0) || (value >= param->min && value <= param->max));
}

static int set_int(const struct qp_param *param, const json_t *value, void *field, struct qp_error *err)
{
    json_int_t number = json_integer_value(value);
    if (json_is_real(value)) /* 1e3 is a whole number as well */
        number = fabs(json_real_value(value)) < 0x1p53 ? (json_int_t)json_real_value(value) : 0;
    bool whole = json_is_integer(value) || (json_is_real(value) && (double)number == json_real_value(value));
    if (!whole || !in_range(param, (double)number))
        return out_of_range(err, param, value, "a whole number");
    *(int64_t *)field = number;
    return 0;
}

static int set_float(const struct qp_param *param, const json_t *value, void *field, struct qp_error *err)
{
    if (!json_is_number(value) || !in_range(param, json_number_value(value)))
        return out_of_range(err, param, value, "a number");
    *(double *)field = json_number_value(value);
    return 0;
}

/* 0.05, "5%" or "0.05". */
static int set_percent(const struct qp_param *param, const json_t *value, void *field, struct qp_error *err)
{
    double fraction = json_number_value(value);
    bool good = json_is_number(value);
    if (json_is_string(value)) {
        char *end;
        fraction = strtod(json_string_value(value), &end);
        good = end != json_string_value(value);
        if (*end == '%') {
            fraction /= 100;
            end++;
        }
        good = good && !*end;
    }
    if (!good || !in_range(param, fraction))
        return out_of_range(err, param, value, "a percentage (5% or 0.05)");
    *(double *)field = fraction;
    return 0;
}

static int set_string(const struct qp_param *param, const json_t *value, void *field, struct qp_error *err)
{
    if (!json_is_string(value))
        return refuse(err, param, value, "a string");
    const char *text = json_string_value(value);
    if (param->choices && !qp_known(text, param->choices)) {
        char where[128];
        snprintf(where, sizeof where, "parameter %s", param->name);
        return qp_fail_unknown(err, QP_ERR_INPUT, where, "value", text, param->choices);
    }
    *(const char **)field = text;
    return 0;
}

static int set(const struct qp_param *param, const json_t *value, void *state, struct qp_error *err)
{
    void *field = (char *)state + param->offset;
    switch (param->type) {
    case QP_PARAM_BOOL:
        if (!json_is_boolean(value))
            return refuse(err, param, value, "true or false");
        *(bool *)field = json_is_true(value);
        return 0;
    case QP_PARAM_INT:
        return set_int(param, value, field, err);
    case QP_PARAM_FLOAT:
        return set_float(param, value, field, err);
    case QP_PARAM_STRING:
        return set_string(param, value, field, err);
    case QP_PARAM_PERCENT:
        return set_percent(param, value, field, err);
    }
    return qp_fail(err, QP_ERR_STAGE, "parameter %s: the stage's table has no such type", param->name);
}

static void unset(const struct qp_param *param, void *state)
{
    void *field = (char *)state + param->offset;
    if (param->type == QP_PARAM_BOOL)
        *(bool *)field = false;
    else if (param->type == QP_PARAM_INT)
        *(int64_t *)field = INT64_MIN;
    else if (param->type == QP_PARAM_STRING)
        *(const char **)field = NULL;
    else
        *(double *)field = NAN;
}

/* The default is written as a user would write it. A string of the table outlives any JSON value. */
static int set_fallback(const struct qp_param *param, void *state, struct qp_error *err)
{
    unset(param, state);
    if (!param->fallback)
        return 0;
    if (param->type == QP_PARAM_STRING) {
        *(const char **)((char *)state + param->offset) = param->fallback;
        return 0;
    }
    json_t *value = param->type == QP_PARAM_PERCENT ? json_string(param->fallback)
                                                    : json_loads(param->fallback, JSON_DECODE_ANY, NULL);
    int r = value ? set(param, value, state, err)
                  : qp_fail(err, QP_ERR_STAGE, "parameter %s: bad default %s", param->name, param->fallback);
    json_decref(value);
    return r;
}

static int check_names(const struct qp_param *params, const json_t *values, struct qp_error *err)
{
    const char *names[MOST_PARAMS + 1] = {NULL};
    for (size_t i = 0; params && params[i].name && i < MOST_PARAMS; i++)
        names[i] = params[i].name;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)values, key, value) {
        if (!qp_known(key, names))
            return qp_fail_unknown(err, QP_ERR_INPUT, "with", "parameter", key, names);
    }
    return 0;
}

int qp_params_parse(const struct qp_param *params, const json_t *values, void *state, struct qp_error *err)
{
    if (values && !json_is_null(values) && !json_is_object(values))
        return qp_fail(err, QP_ERR_INPUT, "parameters: expected a mapping of names to values");
    int r = check_names(params, values, err);
    for (; r == 0 && params && params->name; params++) {
        const json_t *value = json_object_get(values, params->name);
        r = value ? set(params, value, state, err) : set_fallback(params, state, err);
    }
    return r;
}
