/* A whole network's logits, for comparisons with other implementations. */
#ifndef QUANTPIPE_TESTS_NETWORK_H
#define QUANTPIPE_TESTS_NETWORK_H

#include "libstage/network/evaluate.h"

/* logits[count * length, vocab] of a checkpoint as it is on disk. */
int network_logits(struct qp_checkpoint *checkpoint, const struct qp_windows *windows, const struct qp_kernels *kernels,
                   float *logits, struct qp_error *err);

#endif
