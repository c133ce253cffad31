/* Merges of a SentencePiece BPE vocabulary, which has scores instead. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_MERGES_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_MERGES_H

#include <stdbool.h>
#include <stddef.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"

struct qp_scored {
    const char *token;
    size_t size;
    double score;
    bool normal; /* neither a control token nor a byte ...: may be made by a merge, and merged */
};

/* Appends [left, right] for each way to cut a normal token into two, the best first: every pair of normal tokens that
 * makes a third, ordered as generate_merges() of transformers' convert_slow_tokenizer.py orders them: by score, length
 * of the left token, length of the right one (each descending, lengths in characters), and then by ids. `vocabulary`:
 * token -> index in `pieces`. A token of more than 1024 bytes is QP_ERR_INPUT. */
int qp_merges_from_scores(const struct qp_scored *pieces, size_t count, const json_t *vocabulary, json_t *merges,
                          struct qp_error *err);

#endif
