/* The BPE model of a tokenizer.json: a vocabulary, and merges by rank. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_BPE_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_BPE_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"
#include "libstage/tokenizer/tokenizer_text.h"

struct qp_bpe;

/* From the `model` value; `path` is for messages. Of two merges of the same pair the later counts, as in the
 * `tokenizers` package. */
int qp_bpe_parse(const json_t *model, const char *path, struct qp_bpe **out, struct qp_error *err);
void qp_bpe_free(struct qp_bpe *bpe); /* NULL is accepted */

/* The id of a token, QP_NO_ID when it is not in the vocabulary. */
int32_t qp_bpe_id(const struct qp_bpe *bpe, const char *token, size_t size);

/* Ids of the vocabulary, ascending, none twice. */
const struct qp_ids *qp_bpe_ids(const struct qp_bpe *bpe);

/* Appends the ids of all pieces. A piece of n characters takes O(n log n). */
int qp_bpe_encode(const struct qp_bpe *bpe, const struct qp_text *text, struct qp_ids *ids, struct qp_error *err);

#endif
