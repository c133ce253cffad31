#include "runner/pipeline/yaml.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/utf8.h"

static bool one_of(const char *text, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(text, *words) == 0)
            return true;
    return false;
}

static size_t digits(const char *p)
{
    return strspn(p, "0123456789");
}

/* [-+]? ( [0-9]+ | 0o[0-7]+ | 0x[0-9a-fA-F]+ ), the prefixed ones without a sign. Sets *base and where digits begin. */
static bool is_integer(const char *text, int *base, const char **start)
{
    if (text[0] == '0' && (text[1] == 'o' || text[1] == 'x')) {
        *base = text[1] == 'o' ? 8 : 16;
        *start = text + 2;
        size_t n = strspn(text + 2, *base == 8 ? "01234567" : "0123456789abcdefABCDEF");
        return n > 0 && !text[2 + n];
    }
    const char *p = text + (text[0] == '-' || text[0] == '+');
    *base = 10;
    *start = text;
    return digits(p) > 0 && !p[digits(p)];
}

/* [-+]? ( \.[0-9]+ | [0-9]+ ( \.[0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool is_float(const char *text)
{
    const char *p = text + (text[0] == '-' || text[0] == '+');
    size_t whole = digits(p), fraction = 0;
    p += whole;
    if (*p == '.') {
        fraction = digits(++p);
        p += fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        p += *p == '-' || *p == '+';
        if (digits(p) == 0)
            return false;
        p += digits(p);
    }
    return !*p;
}

static bool is_not_finite(const char *text)
{
    static const char *const words[] = {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN", NULL};
    return one_of(text + (text[0] == '-' || text[0] == '+'), words);
}

static json_t *integer(const char *start, int base)
{
    errno = 0;
    long long value = strtoll(start, NULL, base);
    return errno == ERANGE ? NULL : json_integer(value);
}

void qp_yaml_scalar(const char *text, json_t **out)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    int base;
    const char *start;
    if (one_of(text, nulls))
        *out = json_null();
    else if (one_of(text, trues))
        *out = json_true();
    else if (one_of(text, falses))
        *out = json_false();
    else if (is_integer(text, &base, &start))
        *out = integer(start, base);
    else if (is_float(text))
        *out = isfinite(strtod(text, NULL)) ? json_real(strtod(text, NULL)) : NULL; /* it may overflow */
    else if (is_not_finite(text))
        *out = NULL;
    else
        *out = qp_utf8_is_valid(text, strlen(text)) ? json_string(text) : NULL;
}

struct text {
    char *bytes;
    size_t size, capacity;
};

static int append(struct text *text, const char *bytes, size_t size, struct qp_error *err)
{
    if (size > QP_YAML_LIMIT || text->size + size > QP_YAML_LIMIT)
        return qp_fail(err, QP_ERR_INPUT, "longer than %zu bytes with the environment's values in it", QP_YAML_LIMIT);
    if (text->size + size + 1 > text->capacity) {
        size_t capacity = 2 * (text->size + size) + 64;
        char *grown = realloc(text->bytes, capacity);
        if (!grown)
            return qp_fail_memory(err, capacity, "a scalar");
        text->bytes = grown;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = '\0';
    return 0;
}

static size_t name_length(const char *p)
{
    size_t n = 0;
    while (isalnum((unsigned char)p[n]) || p[n] == '_')
        n++;
    return n > 0 && !isdigit((unsigned char)p[0]) ? n : 0;
}

/* Appends the value of the reference that begins at p ("${"); *end is set to after it. */
static int expand_one(const char *p, struct text *text, const char **end, struct qp_error *err)
{
    size_t n = name_length(p + 2);
    const char *after = p + 2 + n;
    const char *close = strchr(after, '}');
    if (n == 0 || !close || (close != after && strncmp(after, ":-", 2) != 0))
        return qp_fail(
            err, QP_ERR_INPUT,
            "found `%.40s`, expected ${NAME} or ${NAME:-default}; put the text in single quotes to keep it as it is",
            p);
    qp_auto_free char *name = strndup(p + 2, n);
    if (!name)
        return qp_fail_memory(err, n + 1, "a name");
    const char *value = getenv(name);
    *end = close + 1;
    if (close != after && (!value || !*value))
        return append(text, after + 2, (size_t)(close - after - 2), err);
    if (!value)
        return qp_fail(err, QP_ERR_INPUT,
                       "the environment variable %s is not set; set it, or write ${%s:-default} to give a default",
                       name, name);
    return append(text, value, strlen(value), err);
}

int qp_yaml_expand(const char *text, char **out, struct qp_error *err)
{
    struct text result = {0};
    int r = append(&result, "", 0, err);
    while (r == 0 && *text) {
        const char *reference = strstr(text, "${");
        size_t plain = reference ? (size_t)(reference - text) : strlen(text);
        r = append(&result, text, plain, err);
        text += plain;
        if (r == 0 && reference)
            r = expand_one(text, &result, &text, err);
    }
    if (r < 0) {
        free(result.bytes);
        return r;
    }
    *out = result.bytes;
    return 0;
}
