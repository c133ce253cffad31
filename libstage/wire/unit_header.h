/* Headers of units and chunks, written and read. */
#ifndef QUANTPIPE_WIRE_UNIT_HEADER_H
#define QUANTPIPE_WIRE_UNIT_HEADER_H

#include <stdbool.h>
#include "libstage/base/json.h"
#include <msgpack/sbuffer.h>

#include "libstage/tensor/unit.h"

/* How a tensor travels to a consumer on the same host or on another one. */
enum qp_where qp_travels(const struct qp_tensor *tensor, bool same_host);

/* Bytes that a unit brings, by the way they travel. Inline and shm bytes are what it costs in credit. */
struct qp_unit_size {
    uint64_t inline_bytes, shm_bytes, file_bytes;
};
struct qp_unit_size qp_unit_size(const struct qp_unit *unit, bool same_host);

/* Appends a unit's header; `attrs` holds its attributes, packed. QP_ERR_INPUT when it becomes too large. */
int qp_unit_header_pack(const struct qp_unit *unit, const msgpack_sbuffer *attrs, int64_t units, bool same_host,
                        msgpack_sbuffer *out, struct qp_error *err);

void qp_chunk_header_pack(int64_t seq, size_t tensor, uint64_t offset, msgpack_sbuffer *out);

/* A tensor as a header describes it; strings are borrowed from the header. */
struct qp_tensor_entry {
    const char *name;
    enum qp_dtype dtype;
    int rank;
    int64_t shape[QP_MAX_RANK];
    enum qp_where where;
    const char *path; /* of references */
    uint64_t offset, bytes;
};

/* Reads one element of a header's tensors. QP_ERR_STAGE, naming the tensor, for what cannot be. */
int qp_tensor_entry_read(const json_t *value, struct qp_tensor_entry *entry, struct qp_error *err);

/* The kind of a name, 0 for an unknown one. */
enum qp_unit_kind qp_unit_kind_by_name(const char *name);

#endif
