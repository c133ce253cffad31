/* Calibration and evaluation data: windows of token ids, all of one length, no padding. */
#ifndef QUANTPIPE_CALIBRATION_DATA_H
#define QUANTPIPE_CALIBRATION_DATA_H

#include <stdint.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"
#include "libstage/tokenizer/tokenizer.h"

struct qp_windows {
    int32_t *ids; /* [count, length] */
    int64_t count, length;
};

/* `spec`: the mapping {text: PATH, samples: N, length: L, seed: S, synthetic: bool} of a pipeline's `data` entry; only
 * text or synthetic is required. PATH: .txt (tokenized whole, special tokens as the tokenizer's template says, cut into
 * windows that do not overlap, the tail dropped), .jsonl (the strings under `text`, each tokenized, one after the
 * other), .npy (int32 or int64, 1-D or 2-D: token ids; no window spans two rows). samples: at most so many windows (0
 * or absent: all); length: default 512; seed absent or 0: the first windows, otherwise a seeded choice of them, in text
 * order. bos: true starts every window of a text with the BOS of the tokenizer's template, as Gemma needs it (one that
 * has none is QP_ERR_INPUT). synthetic: uniformly random ids, `samples` windows (default 128). Ids are checked against
 * `vocab`. An empty text, or one shorter than a window, is QP_ERR_INPUT that says how long it is and how long it must
 * be. `tokenizer` may be NULL when none is needed. */
int qp_windows_load(const json_t *spec, const struct qp_tokenizer *tokenizer, int64_t vocab, struct qp_windows *out,
                    struct qp_error *err);

/* The same with the tokenizer in the file `path` (qp_tokenizer_open), NULL for none. */
int qp_windows_open(const json_t *spec, const char *path, int64_t vocab, struct qp_windows *out, struct qp_error *err);
void qp_windows_free(struct qp_windows *windows);

/* Checks a `data` entry without reading the text: keys, types, ranges, and that the file exists. `where` is its path
 * in the pipeline ("data.calibration"). */
int qp_windows_check(const json_t *spec, const char *where, struct qp_error *err);

#endif
