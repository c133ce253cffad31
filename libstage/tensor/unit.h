/* Units: what travels on an edge. First one `model`, then `block`s in execution order (embedding, decoder layers,
 * head), then one `end`. A unit has attributes (a JSON object) and tensors, found by name.
 *
 * A unit belongs to one thread at a time. It owns a reference of each of its tensors and of its attributes. */
#ifndef QUANTPIPE_TENSOR_UNIT_H
#define QUANTPIPE_TENSOR_UNIT_H

#include "libstage/base/json.h"

#include "libstage/base/strings.h"
#include "libstage/tensor/tensor.h"

enum qp_unit_kind { QP_UNIT_MODEL = 1, QP_UNIT_BLOCK = 2, QP_UNIT_END = 3 };

struct qp_unit {
    enum qp_unit_kind kind;
    int64_t
        seq; /* 0 for model; block b of the model has seq b + 1; end has blocks + 1 (network/sequential.h has more) */
    json_t *attrs; /* an object, never NULL */
    struct qp_tensor **tensors;
    size_t count;
    size_t capacity;
    struct qp_strings names; /* where each tensor is; without all of them names are looked for one after the other */
    void *origin;            /* libstage's own: what has to be acknowledged when all that came of this unit is done */
};

/* "model", "block", "end"; "?" otherwise. */
const char *qp_unit_kind_name(enum qp_unit_kind kind);

int qp_unit_new(enum qp_unit_kind kind, int64_t seq, struct qp_unit **out, struct qp_error *err);
void qp_unit_free(struct qp_unit *unit); /* NULL is accepted */

/* The number of the model's block that a unit is, or is a part of, from 1 on; -1 for a model and an end unit. */
int64_t qp_unit_block(const struct qp_unit *unit);

/* Another unit of the same kind and seq, with attributes of its own and the same tensors. */
int qp_unit_copy(const struct qp_unit *unit, struct qp_unit **out, struct qp_error *err);

/* The tensor of that name (borrowed), or NULL. */
struct qp_tensor *qp_unit_find(const struct qp_unit *unit, const char *name);

/* Adds a tensor, or replaces the one of the same name. Takes over the caller's reference, also when it fails. */
int qp_unit_put(struct qp_unit *unit, struct qp_tensor *tensor, struct qp_error *err);

/* Drops the tensor of that name if there is one. */
void qp_unit_remove(struct qp_unit *unit, const char *name);

static inline void qp_cleanup_unit(struct qp_unit **unit)
{
    qp_unit_free(*unit);
}
#define qp_auto_unit __attribute__((cleanup(qp_cleanup_unit)))

#endif
