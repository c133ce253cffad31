/* What the blocks of a run come to: what of a block decides on the output, and whether codes are some of their number
 * format. */
#ifndef QUANTPIPE_NETWORK_BLOCK_CONTENT_H
#define QUANTPIPE_NETWORK_BLOCK_CONTENT_H

#include "libstage/network/block.h"
#include "libstage/tensor/digest.h"

/* Adds what an exported checkpoint is made of: the block's own tensors, but for weights of linears that have codes;
 * folds; codes with their scales and low-rank corrections; fixed ranges. Statistics and what no stage knows are left
 * out, so that two stages that see the same network come to the same digest. */
int qp_block_digest(const struct qp_block *block, struct qp_digest *digest, struct qp_error *err);

/* The digest of all blocks that were added, under a scheme: the last call for it. */
int qp_content_text(const json_t *scheme, struct qp_digest *digest, char text[QP_DIGEST_TEXT], struct qp_error *err);

/* QP_ERR_STAGE with the name, the element and the range when a code (a byte each, not packed) is none of the number
 * format, a NaN among them, or a zero point is outside it, or a scale is not finite or negative. */
int qp_codes_check(const struct qp_quantized *q, const char *module, struct qp_error *err);

#endif
