/* Words that users write, and the closest known one when they mistype it. */
#ifndef QUANTPIPE_BASE_WORDS_H
#define QUANTPIPE_BASE_WORDS_H

#include <stdbool.h>
#include <stddef.h>

#include "libstage/base/error.h"

/* Whether `word` is one of `known` (ends with NULL). */
bool qp_known(const char *word, const char *const *known);

/* The known word closest to `word` by edit distance (insert, delete, replace, swap of neighbours; case ignored); NULL
 * when none is close enough to be meant. */
const char *qp_nearest(const char *word, const char *const *known);

/* "a, b, c" into `text`; returns it. A list that does not fit is cut. */
const char *qp_word_list(const char *const *known, char *text, size_t size);

/* Describes an unknown word: "WHERE: unknown WHAT 'word', did you mean 'near'? Known: a, b, c". Returns `code`. */
int qp_fail_unknown(struct qp_error *err, int code, const char *where, const char *what, const char *word,
                    const char *const *known);

#endif
