#include "libstage/base/utf8.h"

#include <stdio.h>
#include <string.h>

#define ESCAPE 4 /* characters of \xHH */
#define LONGEST 4096

/* Bytes of the character at `p`, of at most `left`; 0 when there is none. */
static size_t character(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
    bool outside = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f);
    return overlong || outside ? 0 : n;
}

bool qp_utf8_is_valid(const char *text, size_t size)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t at = 0, n; at < size; at += n)
        if ((n = character(p + at, size - at)) == 0)
            return false;
    return true;
}

/* Whether a character of `n` bytes tells a terminal to do something: C0 but for line feeds and tabs, DEL, and C1. */
static bool is_control(const unsigned char *p, size_t n)
{
    return n == 1 ? (p[0] < 0x20 && p[0] != '\n' && p[0] != '\t') || p[0] == 0x7f
                  : n == 2 && p[0] == 0xc2 && p[1] < 0xa0;
}

size_t qp_utf8_clean(const char *text, char *out, size_t size)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strlen(text), at = 0;
    while (left > 0) {
        size_t n = character(p, left);
        n = is_control(p, n) ? 0 : n;
        size_t needed = n ? n : ESCAPE;
        if (at + needed >= size)
            break;
        if (n)
            memcpy(out + at, p, n);
        else
            snprintf(out + at, ESCAPE + 1, "\\x%02x", p[0]);
        at += needed;
        p += n ? n : 1;
        left -= n ? n : 1;
    }
    out[at] = '\0';
    return at;
}

/* Cuts off a last character that is not all there, as vsnprintf leaves it where the buffer ends. */
static void trim(char *text)
{
    size_t size = strlen(text), tail = 0;
    while (tail < 3 && tail + 1 < size && ((unsigned char)text[size - 1 - tail] & 0xc0) == 0x80)
        tail++;
    const unsigned char *last = (const unsigned char *)text + size - 1 - tail;
    if (size > 0 && *last >= 0xc2 && *last <= 0xf4 && character(last, tail + 1) == 0)
        text[size - 1 - tail] = '\0';
}

void qp_utf8_format(char *text, size_t size, const char *format, va_list args)
{
    char raw[LONGEST];
    int n = vsnprintf(raw, size < LONGEST ? size : LONGEST, format, args);
    if (n >= 0 && (size_t)n >= size)
        trim(raw);
    qp_utf8_clean(n < 0 ? "" : raw, text, size);
}
