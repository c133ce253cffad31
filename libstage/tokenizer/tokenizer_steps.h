/* Normalizers and pre-tokenizers, both compiled to one flat list of six primitive steps. */
#ifndef QUANTPIPE_TOKENIZER_TOKENIZER_STEPS_H
#define QUANTPIPE_TOKENIZER_TOKENIZER_STEPS_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"
#include "libstage/tokenizer/tokenizer_pattern.h"
#include "libstage/tokenizer/tokenizer_text.h"

enum qp_step_kind {
    QP_STEP_PREPEND, /* content, before a piece */
    QP_STEP_REPLACE, /* what the pattern matches, by content */
    QP_STEP_UNICODE, /* a normalization form */
    QP_STEP_LOWERCASE,
    QP_STEP_BYTES, /* each byte by its character of the byte-level alphabet */
    QP_STEP_SPLIT, /* at what the pattern matches */
};

/* When content is prepended. */
enum qp_prepend { QP_PREPEND_ALWAYS, QP_PREPEND_MISSING, QP_PREPEND_MISSING_FIRST };

/* What becomes of a match when a piece is split. */
enum qp_split {
    QP_SPLIT_ISOLATED,
    QP_SPLIT_REMOVED,
    QP_SPLIT_MERGED_WITH_PREVIOUS,
    QP_SPLIT_MERGED_WITH_NEXT,
    QP_SPLIT_CONTIGUOUS,
};

struct qp_step {
    enum qp_step_kind kind;
    struct qp_pattern *pattern; /* owned */
    char *content;              /* owned */
    size_t content_size;
    enum qp_prepend prepend;
    enum qp_split split;
    bool invert; /* split at what does not match */
    int unicode; /* options of utf8proc_map */
};

struct qp_steps {
    struct qp_step *list;
    size_t count;
};

/* Appends the steps of a tokenizer.json's `normalizer` or `pre_tokenizer` (NULL and null: none). `path` is for
 * messages. */
int qp_steps_normalizer(const json_t *json, const char *path, struct qp_steps *steps, struct qp_error *err);
int qp_steps_pre_tokenizer(const json_t *json, const char *path, struct qp_steps *steps, struct qp_error *err);
void qp_steps_clear(struct qp_steps *steps);

/* Applies all steps to the pieces of text that are no tokens yet. */
int qp_steps_apply(const struct qp_steps *steps, struct qp_text *text, struct qp_error *err);

#endif
