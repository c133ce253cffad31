/* Tokens added to a vocabulary: found in a text before the model sees it. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_ADDED_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_ADDED_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"
#include "libstage/tokenizer/tokenizer_bpe.h"
#include "libstage/tokenizer/tokenizer_steps.h"

struct qp_added;

/* From the `added_tokens` value (NULL and null: none). A token that the vocabulary has must have its id there, another
 * one an id that nothing else has. `normalizer` is what the tokens marked `normalized` go through. */
int qp_added_parse(const json_t *json, const char *path, const struct qp_bpe *bpe, const struct qp_steps *normalizer,
                   struct qp_added **out, struct qp_error *err);
void qp_added_free(struct qp_added *added); /* NULL is accepted */

/* The number of ids that these and the vocabulary's need: the highest, plus one. */
int64_t qp_added_vocabulary(const struct qp_added *added);

/* Cuts the tokens out of a text that has not been normalized yet (`normalized` false) or has been. The longest of those
 * that begin leftmost is taken. */
int qp_added_cut(const struct qp_added *added, bool normalized, struct qp_text *text, struct qp_error *err);

#endif
