/* Words that users write, and the closest known one when they mistype it. */
#ifndef QUANTPIPE_BASE_WORDS_H
#define QUANTPIPE_BASE_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#include "libstage/base/error.h"

/* Whether `word` is one of `known` (ends with NULL). */
bool qp_known(const char *word, const char *const *known);

/* The one of `count` words that is closest to `word` by edit distance (insert, delete, replace, swap of neighbours;
 * case ignored); NULL when none is close enough to be meant. Borrowed. */
const char *qp_nearest(const char *word, const char *const *words, size_t count);

/* How many words a list has before its NULL. */
size_t qp_word_count(const char *const *known);

/* "a, b, c" into `text`; returns it. A list that does not fit is cut. */
const char *qp_word_list(const char *const *known, char *text, size_t size);

/* Describes an unknown word: "WHERE: unknown WHAT 'word', did you mean 'near'? Known: a, b, c". Returns `code`. */
int qp_fail_unknown(struct qp_error *err, int code, const char *where, const char *what, const char *word,
                    const char *const *known);

#endif
