/* Where token ids come from, for data.c. */
#ifndef QUANTPIPE_CALIBRATION_DATA_IDS_H
#define QUANTPIPE_CALIBRATION_DATA_IDS_H

#include <stdint.h>

#include "libstage/base/error.h"
#include "libstage/tokenizer/tokenizer.h"

/* Runs of ids that windows are cut from: no window spans two of them. */
struct qp_id_runs {
    int32_t *ids; /* [count, length], freed by the caller */
    int64_t count, length;
};

/* The text of a file, tokenized whole: one run. */
int qp_ids_from_text(const char *path, const struct qp_tokenizer *tokenizer, struct qp_id_runs *out,
                     struct qp_error *err);

/* The strings under `text` of a file that has a JSON object on each line (blank lines are passed over), each tokenized,
 * one after the other: one run. Errors name FILE:LINE. */
int qp_ids_from_jsonl(const char *path, const struct qp_tokenizer *tokenizer, struct qp_id_runs *out,
                      struct qp_error *err);

/* A NumPy array of int32 or int64 in C order, one run a row; one run if it is 1-D. Every id must be in [0, vocab). The
 * format: numpy.lib.format, versions 1.0 to 3.0, read strictly: the three keys and no other, and data that end where
 * the file does. */
int qp_ids_from_npy(const char *path, int64_t vocab, struct qp_id_runs *out, struct qp_error *err);

#endif
