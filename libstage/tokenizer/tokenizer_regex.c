/* Oniguruma's Ruby syntax (doc/RE of Oniguruma 6.9) to PCRE2's (pcre2pattern(3)). */
#define PCRE2_CODE_UNIT_WIDTH 8

#include "libstage/tokenizer/tokenizer_pattern.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdio.h>
#include <string.h>

#include "libstage/tokenizer/tokenizer_text.h"

/* Oniguruma's \w: Unicode's word characters (UTS 18) without Join_Control, and the numbers of Latin-1. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

struct reader {
    const char *source;
    size_t size, at;
    bool in_class;
    struct qp_text out;
    struct qp_error *err;
};

static void put(struct reader *in, const char *text)
{
    qp_text_add(&in->out, text, strlen(text));
}

static int refuse(const struct reader *in, const char *what)
{
    return qp_fail(in->err, QP_ERR_INPUT,
                   "the regular expression \"%.400s\" has %s at byte %zu, which is not supported", in->source, what,
                   in->at);
}

static bool next_is(const struct reader *in, const char *text)
{
    size_t n = strlen(text);
    return in->size - in->at >= n && memcmp(in->source + in->at, text, n) == 0;
}

static bool compiles(const char *source)
{
    int error;
    PCRE2_SIZE offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)source, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &offset, NULL);
    pcre2_code_free(code);
    return code != NULL;
}

/* \p{Name}: PCRE2 takes the name of a script for its Script_Extensions, Oniguruma for the Script property. */
static int property(struct reader *in)
{
    const char *open = in->source + in->at + 2;
    const char *close = memchr(open, '}', in->size - in->at - 2);
    if (in->size - in->at < 5 || *open != '{' || !close || close - open > 64)
        return refuse(in, "a property without {name}");
    int length = (int)(close - open) - 1;
    const char *name = open + 1;
    bool negated = length > 0 && name[0] == '^';
    name += negated;
    length -= negated;
    char text[128];
    snprintf(text, sizeof text, "\\p{sc:%.*s}", length, name);
    const char *script = compiles(text) ? "sc:" : "";
    snprintf(text, sizeof text, "\\%c{%s%s%.*s}", in->source[in->at + 1], negated ? "^" : "", script, length, name);
    put(in, text);
    in->at = (size_t)(close + 1 - in->source);
    return 0;
}

/* \uHHHH and \x{H...}. */
static int code_point(struct reader *in)
{
    const char *digits = in->source + in->at + 2;
    size_t left = in->size - in->at - 2;
    bool braces = in->source[in->at + 1] == 'x';
    if (braces && (left == 0 || *digits != '{'))
        return refuse(in, "\\x without {code point}");
    digits += braces;
    left -= braces;
    size_t n = 0;
    while (n < left && n < 8 && isxdigit((unsigned char)digits[n]))
        n++;
    if (braces ? n == 0 || n == left || digits[n] != '}' : n < 4)
        return refuse(in, "a code point that cannot be read");
    char text[16];
    snprintf(text, sizeof text, "\\x{%.*s}", braces ? (int)n : 4, digits);
    put(in, text);
    in->at += braces ? n + 4 : 6;
    return 0;
}

static int escape(struct reader *in)
{
    if (in->size - in->at < 2)
        return refuse(in, "a lone backslash");
    char c = in->source[in->at + 1];
    if (c == 'p' || c == 'P')
        return property(in);
    if (c == 'x' || c == 'u')
        return code_point(in);
    if (c == 's' || c == 'S')
        put(in, c == 's' ? "\\p{White_Space}" : "\\P{White_Space}");
    else if (c == 'w')
        put(in, in->in_class ? WORD : "[" WORD "]");
    else if (c == 'W' && !in->in_class)
        put(in, "[^" WORD "]");
    else if (strchr("dDntrfae", c) || (strchr("AzZ", c) && !in->in_class) || (unsigned char)c >= 0x80 || ispunct(c) ||
             c == ' ')
        qp_text_add(&in->out, in->source + in->at, 2);
    else
        return refuse(in, "this escape");
    in->at += 2;
    return 0;
}

/* "(" and what may follow it. */
static int group(struct reader *in)
{
    static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (next_is(in, "(*"))
        return refuse(in, "(*");
    bool option = next_is(in, "(?"), good = !option || (in->at == 0 && next_is(in, "(?i)"));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        good = good || next_is(in, known[i]);
    if (!good)
        return refuse(in, "this kind of group");
    put(in, option ? "(?" : "(");
    in->at += option ? 2 : 1;
    return 0;
}

/* A character of a class, or one that ends it. */
static int in_class(struct reader *in)
{
    if (next_is(in, "["))
        return refuse(in, "a class within a class");
    if (next_is(in, "&&"))
        return refuse(in, "an intersection of classes");
    in->in_class = !next_is(in, "]");
    qp_text_add(&in->out, in->source + in->at++, 1);
    return 0;
}

static int open_class(struct reader *in)
{
    const char *open = next_is(in, "[^") ? "[^" : "[";
    put(in, open);
    in->at += strlen(open);
    if (next_is(in, "]"))
        return refuse(in, "an empty class");
    in->in_class = true;
    return 0;
}

static int plain(struct reader *in)
{
    if (next_is(in, "{,"))
        return refuse(in, "an interval without a lower bound");
    if (next_is(in, "}+") || next_is(in, "}?"))
        return refuse(in, "an interval followed by + or ?");
    qp_text_add(&in->out, in->source + in->at++, 1);
    return 0;
}

static int step(struct reader *in)
{
    char c = in->source[in->at];
    if (c == '\\')
        return escape(in);
    if (in->in_class)
        return in_class(in);
    return c == '[' ? open_class(in) : c == '(' ? group(in) : plain(in);
}

int qp_pattern_translate(const char *source, size_t size, char **out, struct qp_error *err)
{
    struct reader in = {.source = source, .size = size, .err = err};
    int r = memchr(source, '\0', size) ? refuse(&in, "a NUL character") : 0;
    while (r == 0 && in.at < size)
        r = step(&in);
    qp_text_add(&in.out, "", 1);
    if (r == 0 && in.out.failed)
        r = qp_fail_memory(err, size, "a regular expression");
    if (r == 0)
        *out = in.out.bytes;
    else
        qp_text_clear(&in.out);
    return r;
}
