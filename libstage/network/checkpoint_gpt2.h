/* GPT-2 (Radford et al. 2019) read as OPT, which computes the same.
 *
 * transformers keeps GPT-2's matrices in modules of its own, Conv1D, as [in, out], and q, k and v in one. What
 * compressed-tensors quantizes is torch.nn.Linear: codes of a Conv1D are taken for weights without a word
 * (compressed-tensors 0.20, transformers 5.17). So GPT-2 becomes an OPT checkpoint when it is read, and what is
 * exported loads as one: matrices transposed, q, k and v apart, OPT's names, two rows of zeros before the positions. */
#ifndef QUANTPIPE_NETWORK_CHECKPOINT_GPT2_H
#define QUANTPIPE_NETWORK_CHECKPOINT_GPT2_H

#include "libstage/formats/safetensors.h"
#include "libstage/network/parts.h"
#include "libstage/tensor/tensor.h"

bool qp_is_gpt2(const json_t *config);

/* OPT's config.json for a GPT-2's, a new object. QP_ERR_INPUT for what OPT has not: another epsilon of norms, scores
 * that are not scaled, or scaled by layer, cross-attention. */
int qp_gpt2_config(const json_t *config, const char *path, json_t **out, struct qp_error *err);

/* The tensor of the file that a part is made of; NULL: there is none. With or without "transformer." before its name,
 * as the checkpoints of the Hub are. */
struct qp_tensor *qp_gpt2_source(const struct qp_safetensors *file, const struct qp_arch *arch,
                                 const struct qp_part *part);

/* Checks that the part's source is there, with its shape and a known dtype. */
int qp_gpt2_check_part(const struct qp_safetensors *file, const char *path, const struct qp_arch *arch,
                       const struct qp_part *part, struct qp_error *err);

/* A part under OPT's name: a view of the source where that has the right order, else a new tensor of its dtype. */
int qp_gpt2_part(const struct qp_safetensors *file, const struct qp_arch *arch, const struct qp_part *part,
                 const struct qp_allocator *allocator, struct qp_tensor **out, struct qp_error *err);

#endif
