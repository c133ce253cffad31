/* A tiny random Llama for tests: as units in memory, as its architecture, as a folder on disk. */
#ifndef QUANTPIPE_TESTS_TINY_H
#define QUANTPIPE_TESTS_TINY_H

#include <jansson.h>

#include "libstage/include/stage.h"
#include "libstage/network/block.h"
#include "tests/support/llama.h"

/* hidden 64, ffn 96, 4 heads of 16, 2 key/value heads, 2 layers, vocabulary 128, F32, tied. */
enum { TINY_HIDDEN = 64, TINY_FFN = 96, TINY_LAYERS = 2, TINY_VOCAB = 128, TINY_UNITS = TINY_LAYERS + 4 };
enum { TINY_STEPS = TINY_UNITS + TINY_LAYERS * (QP_SITES - 1) }; /* units when layers come in steps */

/* config.json of the model as a new JSON object. */
json_t *tiny_config(void);

/* Seeded normal numbers with standard deviation `deviation`. */
void tiny_random(uint64_t seed, int64_t count, float deviation, float *out);

/* All units of a run: model, embedding, layers, head, end. `scheme` is JSON text. With `hessians` each site gets
 * absmax, absmean and a well-conditioned, strongly correlated Hessian. The caller owns what units[] points to. */
void tiny_units(const char *scheme, bool hessians, struct qp_unit *units[TINY_UNITS]);

/* Gives the layers' units the codes of rounding to nearest. */
void tiny_quantize(struct qp_unit *units[TINY_UNITS]);

/* All units in steps, as load sends them with true_sequential; takes them over. */
void tiny_steps(struct qp_unit *units[TINY_UNITS], struct qp_unit *out[TINY_STEPS]);

/* Writes the model as a Hugging Face folder (made, with its parents). */
void tiny_write(const char *folder);

struct tiny_call {
    const char *params, *context; /* JSON; NULL: an empty object */
    const char *const *wants;
    struct qp_unit **units; /* taken over */
    size_t count;
    int expected; /* the code that the call has to return */
};

/* Calls a stage on units (taken over); fails the test unless it returns `expected`. params and context are JSON text or
 * NULL. Returns what it emitted, *count
 * units (NULL and 0 after a failure); the message of the last error is in tiny_message. */
struct qp_unit **tiny_call(const struct qp_stage_desc *desc, const struct tiny_call *call, size_t *count,
                           json_t **report);
extern char tiny_message[QP_ERROR_SIZE];

/* H[i, j] of a packed Hessian [n, n]. */
float tiny_hessian(const float *packed, int64_t n, int64_t i, int64_t j);

void tiny_free(struct qp_unit **units, size_t count);

#endif
