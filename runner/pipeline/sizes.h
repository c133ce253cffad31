/* What a model weighs, block by block and format by format. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_SIZES_H
#define QUANTPIPE_RUNNER_PIPELINE_SIZES_H

#include <stdint.h>

#include "libstage/network/arch.h"

/* What block `index` weighs as its unit carries it, in the checkpoint's dtype; a tied head carries the embedding's. */
uint64_t qp_block_bytes(const struct qp_arch *arch, int64_t index);

/* Weights of the linears of all decoder layers, biases not counted. */
int64_t qp_linear_parameters(const struct qp_arch *arch);

/* Bytes of the whole model when its decoder layers' linears take `bits` a weight, with a scale of 16 bits for every
 * `group` weights of a row (0: one a row; -1: none), and all else takes `rest_bits`. */
uint64_t qp_model_bytes(const struct qp_arch *arch, int bits, int64_t group, int rest_bits);

#endif
