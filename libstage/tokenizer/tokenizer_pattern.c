#define PCRE2_CODE_UNIT_WIDTH 8

#include "libstage/tokenizer/tokenizer_pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"

enum { JIT_STACK_START = 32 << 10, JIT_STACK_MOST = 8 << 20 };

struct qp_pattern {
    char *source; /* the string, or the expression as it was given */
    size_t size;
    pcre2_code *code; /* NULL for a string */
};

struct qp_matcher {
    const struct qp_pattern *pattern;
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    const char *text;
    size_t size, at;
    size_t last; /* end of the last match */
    bool any;    /* whether there was one */
};

int qp_pattern_literal(const char *text, size_t size, struct qp_pattern **out, struct qp_error *err)
{
    struct qp_pattern *pattern = calloc(1, sizeof *pattern);
    char *copy = malloc(size + 1);
    if (!pattern || !copy) {
        free(pattern);
        free(copy);
        return qp_fail_memory(err, size, "a pattern");
    }
    memcpy(copy, text, size);
    copy[size] = '\0';
    *pattern = (struct qp_pattern){.source = copy, .size = size};
    *out = pattern;
    return 0;
}

/* Compiles PCRE2's own syntax. In Ruby's, ^ and $ always mean lines and only LF ends one. */
static int compile(const char *source, pcre2_code **out, struct qp_error *err)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context)
        return qp_fail_memory(err, 0, "a regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    *out = pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (*out)
        return 0;
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    return qp_fail(err, QP_ERR_INPUT, "the regular expression \"%.400s\" does not compile: %s (at byte %zu)", source,
                   (const char *)message, offset);
}

int qp_pattern_regex(const char *source, size_t size, struct qp_pattern **out, struct qp_error *err)
{
    qp_auto_free char *translated = NULL;
    struct qp_pattern *pattern = NULL;
    int r = qp_pattern_translate(source, size, &translated, err);
    if (r == 0)
        r = qp_pattern_literal(source, size, &pattern, err);
    if (r == 0)
        r = compile(translated, &pattern->code, err);
    if (r < 0) {
        qp_pattern_free(pattern);
        return r;
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE); /* without it, matching is slower and the same */
    *out = pattern;
    return 0;
}

void qp_pattern_free(struct qp_pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_code_free(pattern->code);
    free(pattern->source);
    free(pattern);
}

int qp_matcher_new(const struct qp_pattern *pattern, struct qp_matcher **out, struct qp_error *err)
{
    struct qp_matcher *matcher = calloc(1, sizeof *matcher);
    if (!matcher)
        return qp_fail_memory(err, sizeof *matcher, "a search");
    matcher->pattern = pattern;
    if (pattern->code) {
        matcher->data = pcre2_match_data_create_from_pattern(pattern->code, NULL);
        matcher->context = pcre2_match_context_create(NULL);
        matcher->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MOST, NULL);
        if (!matcher->data || !matcher->context) {
            qp_matcher_free(matcher);
            return qp_fail_memory(err, 0, "a search");
        }
        if (matcher->stack)
            pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    }
    *out = matcher;
    return 0;
}

void qp_matcher_free(struct qp_matcher *matcher)
{
    if (!matcher)
        return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    free(matcher);
}

void qp_matcher_start(struct qp_matcher *matcher, const char *text, size_t size)
{
    matcher->text = text;
    matcher->size = size;
    matcher->at = 0;
    matcher->any = false;
}

static int search_literal(struct qp_matcher *matcher, size_t *start, size_t *end)
{
    const struct qp_pattern *pattern = matcher->pattern;
    if (pattern->size == 0 || matcher->at >= matcher->size)
        return 0;
    const char *found =
        memmem(matcher->text + matcher->at, matcher->size - matcher->at, pattern->source, pattern->size);
    if (!found)
        return 0;
    *start = (size_t)(found - matcher->text);
    *end = matcher->at = *start + pattern->size;
    return 1;
}

static int search_regex(struct qp_matcher *matcher, size_t *start, size_t *end, struct qp_error *err)
{
    int r = pcre2_match(matcher->pattern->code, (PCRE2_SPTR)matcher->text, matcher->size, matcher->at,
                        PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
    if (r == PCRE2_ERROR_NOMATCH)
        return 0;
    if (r < 0) {
        PCRE2_UCHAR message[256];
        pcre2_get_error_message(r, message, sizeof message);
        return qp_fail(err, QP_ERR_INPUT, "the regular expression \"%.400s\" fails at byte %zu of a text: %s",
                       matcher->pattern->source, matcher->at, (const char *)message);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(matcher->data);
    *start = range[0];
    *end = range[1];
    return 1;
}

/* Steps over one character. */
static void skip(struct qp_matcher *matcher)
{
    do
        matcher->at++;
    while (matcher->at < matcher->size && ((unsigned char)matcher->text[matcher->at] & 0xc0) == 0x80);
}

int qp_matcher_next(struct qp_matcher *matcher, size_t *start, size_t *end, struct qp_error *err)
{
    if (!matcher->pattern->code)
        return search_literal(matcher, start, end);
    while (matcher->at <= matcher->size) {
        int r = search_regex(matcher, start, end, err);
        if (r <= 0)
            return r;
        if (*start == *end && matcher->any && *end == matcher->last) {
            skip(matcher);
            continue;
        }
        matcher->at = matcher->last = *end;
        matcher->any = true;
        return 1;
    }
    return 0;
}
