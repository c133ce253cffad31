/* Text from outside - file names, tensor names, a stage's words - may hold any bytes; what is shown or sent is UTF-8
 * that moves no cursor. */
#ifndef QUANTPIPE_BASE_UTF8_H
#define QUANTPIPE_BASE_UTF8_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether `size` bytes are UTF-8 (RFC 3629: no surrogates, nothing overlong, nothing above U+10FFFF). */
bool qp_utf8_is_valid(const char *text, size_t size);

/* Copies `text` into `out` (`size` bytes, at least 1), every byte that is no part of a character, or part of a control
 * character other than a line feed or a tab, as \xHH. What does not fit is cut between two characters. Returns the
 * length; text and out may not overlap. */
size_t qp_utf8_clean(const char *text, char *out, size_t size);

/* vsnprintf into a message of at most `size` bytes, 1 to 4096, that is UTF-8 whatever the arguments hold; they may
 * point into `text`. */
void qp_utf8_format(char *text, size_t size, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

#endif
