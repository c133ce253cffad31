/* What makes a model of a GGUF file: its metadata as a config.json, and its tensors as Hugging Face has them. */
#ifndef QUANTPIPE_NETWORK_CHECKPOINT_GGUF_H
#define QUANTPIPE_NETWORK_CHECKPOINT_GGUF_H

#include "libstage/formats/gguf.h"
#include "libstage/network/parts.h"
#include "libstage/tensor/tensor.h"

/* The config.json that says what the metadata says; *out is a new reference. QP_ERR_INPUT with file:key for an
 * architecture that no family has, for missing keys, and for what the families do not compute. */
int qp_gguf_config(const struct qp_gguf *file, json_t **out, struct qp_error *err);

/* Whether the tensor of a part is there with the right shape. */
int qp_gguf_check_part(const struct qp_gguf *file, const struct qp_arch *arch, const struct qp_part *part,
                       struct qp_error *err);

/* A part that was checked, as a new tensor of arch->dtype under its Hugging Face name: dequantized, and the rows of
 * rotary linears in the half-split order. Works on all cores. */
int qp_gguf_part(const struct qp_gguf *file, const struct qp_arch *arch, const struct qp_part *part,
                 const struct qp_allocator *allocator, struct qp_tensor **out, struct qp_error *err);

#endif
