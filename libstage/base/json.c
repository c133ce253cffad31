#include "libstage/base/json.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/utf8.h"

static _Thread_local const char *failed_in; /* NULL: nothing has failed */
static _Thread_local unsigned not_finite;

int qp_json_note(const char *where, int r)
{
    if (r < 0 && !failed_in)
        failed_in = where;
    return r;
}

int qp_json_check(int r, struct qp_error *err)
{
    const char *where = failed_in;
    failed_in = NULL;
    return r < 0 || !where
               ? r
               : qp_fail(err, QP_ERR_SPACE, "no memory for JSON in %s; run where more memory is free", where);
}

unsigned qp_json_not_finite(void)
{
    unsigned count = not_finite;
    not_finite = 0;
    return count;
}

static json_t *note(const char *where, json_t *value)
{
    qp_json_note(where, value ? 0 : -1);
    return value;
}

/* A copy of the text that is UTF-8; NULL without memory. */
static char *clean(const char *text)
{
    size_t size = 4 * strlen(text) + 1;
    char *copy = malloc(size);
    if (copy)
        qp_utf8_clean(text, copy, size);
    return copy;
}

json_t *qp_json_string(const char *where, const char *text)
{
    if (!text)
        return NULL;
    if (qp_utf8_is_valid(text, strlen(text)))
        return note(where, json_string_nocheck(text));
    char *copy = clean(text);
    json_t *value = note(where, copy ? json_string_nocheck(copy) : NULL);
    free(copy);
    return value;
}

json_t *qp_json_sprintf(const char *where, const char *format, ...)
{
    va_list args;
    char *text = NULL;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        return note(where, NULL);
    json_t *value = qp_json_string(where, text);
    free(text);
    return value;
}

json_t *qp_json_real(double value)
{
    not_finite += !isfinite(value);
    return isfinite(value) ? (json_real)(value) : json_null();
}

int qp_json_set(const char *where, json_t *object, const char *key, json_t *value)
{
    if (!key || qp_utf8_is_valid(key, strlen(key)))
        return qp_json_note(where, (json_object_set_new)(object, key, value));
    char *copy = clean(key);
    int r = qp_json_note(where, (json_object_set_new)(object, copy, value));
    free(copy);
    return r;
}

int qp_json_append(const char *where, json_t *array, json_t *value)
{
    return qp_json_note(where, (json_array_append_new)(array, value));
}

/* ---- json_pack ---- */

struct packer {
    const char *where, *at;
    va_list args;
    bool failed; /* a value or memory for one was missing; what is left of the arguments is still taken over */
    bool broken; /* the format is none */
};

static json_t *pack_value(struct packer *p, bool *skip);

/* The next character of the format that says something. */
static char peek(struct packer *p)
{
    while (*p->at && strchr(" \t\n,:", *p->at))
        p->at++;
    return *p->at;
}

static bool take(struct packer *p, char c)
{
    bool found = peek(p) == c;
    p->at += found;
    return found;
}

static json_t *pack_object(struct packer *p)
{
    json_t *object = json_object(); /* even without it the arguments have to be taken */
    while (!p->broken && peek(p) && !take(p, '}')) {
        bool skip;
        p->broken = !take(p, 's');
        const char *key = p->broken ? NULL : va_arg(p->args, const char *);
        json_t *value = p->broken ? NULL : pack_value(p, &skip);
        if (p->broken)
            json_decref(value);
        else if (!skip)
            p->failed |= qp_json_set(p->where, object, key, value) < 0;
    }
    return object;
}

static json_t *pack_array(struct packer *p)
{
    json_t *array = json_array();
    while (!p->broken && peek(p) && !take(p, ']')) {
        bool skip;
        json_t *value = pack_value(p, &skip);
        if (!skip)
            p->failed |= qp_json_append(p->where, array, value) < 0;
    }
    return array;
}

/* `?`: NULL gives null; `*`: NULL leaves the key out. */
static json_t *optional(struct packer *p, json_t *value, bool *skip)
{
    bool null = take(p, '?');
    *skip = take(p, '*') && !value;
    return value || !null ? value : json_null();
}

static json_t *pack_value(struct packer *p, bool *skip)
{
    switch (*skip = false, peek(p) ? *p->at++ : '\0') {
    case '{':
        return pack_object(p);
    case '[':
        return pack_array(p);
    case 's':
        return optional(p, qp_json_string(p->where, va_arg(p->args, const char *)), skip);
    case 'o':
        return optional(p, va_arg(p->args, json_t *), skip);
    case 'O':
        return optional(p, json_incref(va_arg(p->args, json_t *)), skip);
    case 'i':
        return json_integer(va_arg(p->args, int));
    case 'I':
        return json_integer(va_arg(p->args, json_int_t));
    case 'f':
        return qp_json_real(va_arg(p->args, double));
    case 'b':
        return json_boolean(va_arg(p->args, int));
    case 'n':
        return json_null();
    default:
        p->broken = true;
        return NULL;
    }
}

json_t *qp_json_pack(const char *where, const char *format, ...)
{
    bool skip;
    struct packer p = {.where = where, .at = format};
    va_start(p.args, format);
    json_t *value = pack_value(&p, &skip);
    va_end(p.args);
    if (p.failed || p.broken || peek(&p)) {
        json_decref(value);
        value = NULL;
    }
    return note(where, value);
}
