/* A network's layers as the model unit describes them, so that stages in other languages need to know no family. */
#ifndef QUANTPIPE_NETWORK_DESCRIBE_H
#define QUANTPIPE_NETWORK_DESCRIBE_H

#include "libstage/network/arch.h"

/* The attribute `network` of a model unit: {dtype, hidden, vocab, embedding, final_norm, head, tied, layers: [{name,
 * type}], types: [{linears, sites, norms}]} as libstage/wire/PROTOCOL.md says. A new reference, NULL without memory. */
json_t *qp_arch_describe(const struct qp_arch *arch);

#endif
