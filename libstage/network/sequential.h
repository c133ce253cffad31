/* Layers in true-sequential steps. So that each input of a decoder layer's linears can be calibrated after the
 * quantized linears before it (true_sequential), a layer goes round once for each of its sites: in step t, from 1 on,
 * the statistics of site t - 1 are taken and the linears that read it are quantized. Each step is a block unit with a
 * seq of its own, and carries what the steps before it came to; the last one is the whole layer. The model unit
 * announces it by the attribute `steps`: the most that a layer has; block units then have the attribute `block`, their
 * seq where layers come whole, and those of layers `step`. qp_block_of reads them. */
#ifndef QUANTPIPE_NETWORK_SEQUENTIAL_H
#define QUANTPIPE_NETWORK_SEQUENTIAL_H

#include "libstage/network/arch.h"
#include "libstage/tensor/unit.h"

/* Steps of block `index` (0 the embedding): as many as a layer has sites, else 1. */
int qp_sequential_steps(const struct qp_arch *arch, int64_t index);

/* The model unit says that layers come in steps. */
int qp_sequential_announce(const struct qp_arch *arch, struct qp_unit *model, struct qp_error *err);

/* A block or end unit with its ordinary seq gets the seq and the attributes of step `step`, from 1. */
int qp_sequential_label(const struct qp_arch *arch, int step, struct qp_unit *unit, struct qp_error *err);

/* The way back: a new unit, with the same tensors, as it is where layers come whole; NULL for a step that is not the
 * last. A unit that never came in steps is copied as it is. */
int qp_sequential_whole(const struct qp_arch *arch, const struct qp_unit *unit, struct qp_unit **out,
                        struct qp_error *err);

#endif
