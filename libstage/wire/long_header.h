/* Headers of units that are too long for one message (a layer of hundreds of experts): they travel in parts, as bytes
 * of tensors do, before those. */
#ifndef QUANTPIPE_WIRE_LONG_HEADER_H
#define QUANTPIPE_WIRE_LONG_HEADER_H

#include <stdint.h>

#include "libstage/base/json.h"

/* A header that is coming. {0}: none. */
struct qp_long_header {
    char *data;
    size_t size, at;
    int64_t seq;
};

/* Sends the packed header of unit `seq` to `peer` as messages `header`. */
int qp_long_header_send(void *socket, const char *peer, int64_t seq, const char *data, size_t size,
                        struct qp_error *err);

/* Takes the part that a message `header` brings: its body and its second frame. Returns 1 when all is there, which
 * `header` has until it is cleared. QP_ERR_STAGE for a part that is not the next one, and for sizes beyond
 * QP_UNIT_HEADER_LIMIT; QP_ERR_SPACE. */
int qp_long_header_take(struct qp_long_header *header, const json_t *body, const void *part, size_t size,
                        struct qp_error *err);

void qp_long_header_clear(struct qp_long_header *header);

#endif
