/* What a tokenizer works on: growable text cut into pieces, and lists of ids.
 * Growing never fails at once: the first allocation that fails sets `failed`, later calls do nothing, and who fills one
 * of these checks `failed` at the end. All-zero is the empty value of each. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_TEXT_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libstage/base/strings.h"

#define QP_NO_ID (-1)

/* Bytes [start, end) of a text, or a token that is already known. */
struct qp_piece {
    size_t start, end;
    int32_t id; /* QP_NO_ID for text */
    bool first; /* begins where the whole text begins */
};

struct qp_text {
    char *bytes; /* valid UTF-8 */
    size_t size, capacity;
    struct qp_piece *pieces;
    size_t count, piece_capacity;
    bool failed;
};

void qp_text_add(struct qp_text *text, const char *bytes, size_t size);

/* Appends bytes that may be no UTF-8: each maximal part of an ill-formed sequence becomes one U+FFFD (Unicode 14,
 * section 3.9, "Substitution of Maximal Subparts"). */
void qp_text_add_any(struct qp_text *text, const char *bytes, size_t size);

/* Appends a piece; an empty piece of text is dropped. */
void qp_text_cut(struct qp_text *text, struct qp_piece piece);

void qp_text_clear(struct qp_text *text);

struct qp_ids {
    int32_t *at;
    size_t count, capacity;
    bool failed;
};

void qp_ids_add(struct qp_ids *ids, int32_t id);
void qp_ids_add_all(struct qp_ids *ids, const int32_t *more, size_t count);

#endif
