/* Tokenizers: byte-level BPE and SentencePiece-style BPE with byte fallback, from a tokenizer.json or GGUF metadata.
 * Ids are those of the `tokenizers` package, except where Unicode's tables differ: it normalizes by older ones (it
 * leaves U+32FF alone, for example), and its regular expressions know characters newer than Unicode 14. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"
#include "libstage/formats/gguf.h"

struct qp_tokenizer;

/* From a tokenizer.json's value; `path` is for messages. What is not supported (a normalizer, a pre-tokenizer, a
 * model type ...) is QP_ERR_INPUT with its name. `truncation` and `padding` are not looked at: ids are those of the
 * whole text. */
int qp_tokenizer_parse(const json_t *json, const char *path, struct qp_tokenizer **out, struct qp_error *err);

/* `path`: a tokenizer.json or a .gguf file. */
int qp_tokenizer_open(const char *path, struct qp_tokenizer **out, struct qp_error *err);
void qp_tokenizer_free(struct qp_tokenizer *tokenizer); /* NULL is accepted */

/* The tokenizer.json that says what a GGUF file's metadata says (tokenizer.ggml.model gpt2 or llama, .pre, tokens,
 * scores, merges, token types, special ids). *out is a new reference. */
int qp_tokenizer_from_gguf(const struct qp_gguf *file, json_t **out, struct qp_error *err);

/* Ids of `size` bytes of UTF-8 text (invalid bytes are replaced by U+FFFD). `special`: apply the template
 * post-processor (BOS and so on). *ids is new memory, freed by the caller; NULL without an id. Long texts are fine, and
 * threads may share a tokenizer. */
int qp_tokenizer_encode(const struct qp_tokenizer *tokenizer, const char *text, size_t size, bool special,
                        int32_t **ids, size_t *count, struct qp_error *err);

/* The number of ids that the tokens take, added ones included: the highest id, plus one. */
int64_t qp_tokenizer_vocabulary(const struct qp_tokenizer *tokenizer);

#endif
