/* What a tokenizer looks for in a text: a string, or a regular expression as the `tokenizers` package reads it
 * (Oniguruma, Ruby syntax), run by PCRE2. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_PATTERN_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "libstage/base/error.h"

struct qp_pattern;

/* A pattern that finds `text` itself; an empty one finds nothing. */
int qp_pattern_literal(const char *text, size_t size, struct qp_pattern **out, struct qp_error *err);

/* A regular expression. What the two dialects read differently is translated where PCRE2 can say it exactly (\s, \w,
 * scripts, the anchors) and otherwise refused: class intersections and nested classes, \h, \b, inline options but
 * (?i:...), possessive intervals. QP_ERR_INPUT, with what it was and where in the expression. */
int qp_pattern_regex(const char *source, size_t size, struct qp_pattern **out, struct qp_error *err);

void qp_pattern_free(struct qp_pattern *pattern); /* NULL is accepted */

/* Oniguruma's source as PCRE2's, in new memory. */
int qp_pattern_translate(const char *source, size_t size, char **out, struct qp_error *err);

/* The scratch memory of searches for one pattern, by one thread. */
struct qp_matcher;
int qp_matcher_new(const struct qp_pattern *pattern, struct qp_matcher **out, struct qp_error *err);
void qp_matcher_free(struct qp_matcher *matcher); /* NULL is accepted */

/* Starts on valid UTF-8; the text must stay while qp_matcher_next is called. */
void qp_matcher_start(struct qp_matcher *matcher, const char *text, size_t size);

/* 1 and the bytes [*start, *end) of the next match, 0 when there is none, or an error: an expression that takes too
 * many steps. Matches do not overlap; an empty one that touches the last is passed over. */
int qp_matcher_next(struct qp_matcher *matcher, size_t *start, size_t *end, struct qp_error *err);

#endif
