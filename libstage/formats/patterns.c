#include "libstage/formats/patterns.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Both kinds of pattern write a set as [abc], its complement differently. Copies the set at `p` to *out and returns
 * what follows it; NULL when it is not closed. */
static const char *copy_set(const char *p, char from, char to, char **out)
{
    const char *end = p + 1 + (p[1] == from);
    end = *end ? strchr(end + 1, ']') : NULL;
    if (!end)
        return NULL;
    *(*out)++ = '[';
    for (p++; p <= end; p++) {
        bool complement = *p == from && p[-1] == '[';
        *(*out)++ = complement ? to : *p;
    }
    return end + 1;
}

static char *literal(char c, char *out)
{
    if (!isalnum((unsigned char)c) && c != '_' && (unsigned char)c < 128)
        *out++ = '\\';
    *out++ = c;
    return out;
}

char *qp_pattern_to_regex(const char *pattern)
{
    char *regex = malloc(2 * strlen(pattern) + 1), *out = regex;
    if (!regex)
        return NULL;
    for (const char *p = pattern; *p;) {
        const char *set = *p == '[' ? copy_set(p, '!', '^', &out) : NULL;
        if (set) {
            p = set;
            continue;
        }
        if (*p == '*' || *p == '?') {
            *out++ = '.';
            if (*p == '*')
                *out++ = '*';
        } else {
            p += *p == '\\' && p[1];
            out = literal(*p, out);
        }
        p++;
    }
    *out = '\0';
    return regex;
}

static char *plain(char c, char *out)
{
    if (strchr("*?[\\", c))
        *out++ = '\\';
    *out++ = c;
    return out;
}

char *qp_pattern_of_name(const char *name)
{
    char *pattern = malloc(2 * strlen(name) + 1), *out = pattern;
    if (!pattern)
        return NULL;
    for (; *name; name++)
        out = plain(*name, out);
    *out = '\0';
    return pattern;
}

/* Translates one element of a regular expression and returns what follows it; NULL when it has no counterpart. */
static const char *translate(const char *p, char **out)
{
    if (*p == '.') {
        *(*out)++ = p[1] == '*' ? '*' : '?';
        return p + 1 + (p[1] == '*');
    }
    if (*p == '[')
        return copy_set(p, '^', '!', out);
    if (*p == '\\' && !isalnum((unsigned char)p[1]) && p[1])
        p++;
    else if (strchr("\\()|+?{}^$*", *p))
        return NULL;
    *out = plain(*p, *out);
    return p + 1;
}

char *qp_pattern_from_regex(const char *regex)
{
    static const char lookahead[] = "(?!(?:";
    if (*regex == '^')
        regex++;
    if (strncmp(regex, lookahead, sizeof lookahead - 1) == 0) {
        const char *end = strstr(regex, ")$)");
        regex = end ? end + 3 : regex;
    }
    char *pattern = malloc(2 * strlen(regex) + 2), *out = pattern;
    if (!pattern)
        return NULL;
    while (regex && *regex && strcmp(regex, "$") != 0)
        regex = translate(regex, &out);
    if (!regex) {
        free(pattern);
        return NULL;
    }
    if (!*regex) /* not anchored at the end: anything may follow */
        *out++ = '*';
    *out = '\0';
    return pattern;
}
