/* Memory of a peer on this host: shared memory objects of the run, and files below its roots. */
#ifndef QUANTPIPE_WIRE_REFERENCE_H
#define QUANTPIPE_WIRE_REFERENCE_H

#include "libstage/tensor/tensor.h"
#include "libstage/wire/receipt.h"

struct qp_references;

/* `run` is the run's id; `roots` ends with NULL and is copied. */
int qp_references_new(const char *run, const char *const *roots, struct qp_references **out, struct qp_error *err);
void qp_references_free(struct qp_references *references); /* NULL is accepted */

/* A storage for `path`, a new reference. A file is mapped once and stays mapped; shared memory is mapped for each call
 * and holds `receipt` until its last reference is gone, which is noted there as the release of the unit's tensor of
 * that index. QP_ERR_STAGE for a path that this run may not refer to. */
int qp_references_open(struct qp_references *references, enum qp_where where, const char *path,
                       struct qp_receipt *receipt, size_t tensor, struct qp_storage **out, struct qp_error *err);

#endif
