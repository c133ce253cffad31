/* The golden models of tests/unit/golden/llama.py. */
#ifndef QUANTPIPE_TESTS_GOLDEN_H
#define QUANTPIPE_TESTS_GOLDEN_H

#include "tests/support/network.h"

enum { GOLDEN_SEQUENCES = 2, GOLDEN_LENGTH = 20, GOLDEN_VOCAB = 48 };
enum { GOLDEN_TOKENS = GOLDEN_SEQUENCES * GOLDEN_LENGTH, GOLDEN_LOGITS = GOLDEN_TOKENS * GOLDEN_VOCAB };

/* "SOURCE_DIR/tests/unit/golden/llama/NAME"; static storage, overwritten by the next call. */
const char *golden_path(const char *name);

/* Opens golden_path(name); fails the test when it cannot. */
struct qp_checkpoint *golden_open(const char *name);

/* The unit of a block of it, seen as a block; the caller frees block.unit. */
struct qp_block golden_block(struct qp_checkpoint *checkpoint, int64_t index);

/* The ids that the logits belong to; static storage. */
const struct qp_windows *golden_windows(void);

/* transformers' logits of golden model `name`; static storage, overwritten by the next call. */
const float *golden_logits(const char *name);

/* Largest |a - b|; NAN anywhere gives INFINITY. */
double largest_difference(int64_t count, const float *a, const float *b);

#endif
