/* The tensors that a model consists of: one by one, with their names and shapes in either format. */
#ifndef QUANTPIPE_NETWORK_PARTS_H
#define QUANTPIPE_NETWORK_PARTS_H

#include <stddef.h>

#include "libstage/network/arch.h"

enum qp_part_kind {
    QP_PART_EMBEDDING,
    QP_PART_FINAL_NORM,
    QP_PART_HEAD,
    QP_PART_NORM,
    QP_PART_LINEAR,
    QP_PART_PARAMETER,
    QP_PART_POSITIONS,
    QP_PART_PROJECT_IN,
    QP_PART_PROJECT_OUT,
};

struct qp_part {
    enum qp_part_kind kind;
    int64_t layer; /* of what a layer has */
    int index;     /* of the layer's norms, linears or parameters */
    bool bias;     /* of a linear or norm: its bias, not its weight */
};

/* The tensors of block `index` (0 the embedding, layers + 1 the head) one after the other, in a fixed order: *part is
 * the first, or what comes after *part, false when there is none. A tied head has the embedding as its matrix. */
bool qp_first_part(const struct qp_arch *arch, int64_t index, struct qp_part *part);
bool qp_next_part(const struct qp_arch *arch, int64_t index, struct qp_part *part);

#define QP_EACH_PART(part, arch, index)                                         \
    for (bool more_parts = qp_first_part((arch), (index), &(part)); more_parts; \
         more_parts = qp_next_part((arch), (index), &(part)))

/* No quantized checkpoint of the model has more tensors than this. */
size_t qp_quantized_parts_most(const struct qp_arch *arch);

/* "model.layers.3.self_attn.q_proj" and with ".weight" or ".bias"; the GGUF name "blk.3.attn_q.weight". All return
 * `text`. */
const char *qp_part_module(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size);
const char *qp_part_name(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size);
const char *qp_part_gguf_name(const struct qp_arch *arch, const struct qp_part *part, char *text, size_t size);

/* What a tensor of a module's name is called in a checkpoint, which for the text part of a multimodal model differs:
 * `name` itself, or `text`. */
const char *qp_stored_name(const struct qp_arch *arch, const char *name, char *text, size_t size);

/* Its rank, 0 to 2, with shape[0 .. rank) filled. */
int qp_part_shape(const struct qp_arch *arch, const struct qp_part *part, int64_t shape[2]);

/* The part of a Hugging Face name; false when the model has none of that name. */
bool qp_part_find(const struct qp_arch *arch, const char *name, struct qp_part *out);

#endif
