/* The consumer's end of an edge.
 *
 * Not thread-safe: the caller's lock guards all of it, and qp_in_poll is called by the one thread that owns the ZeroMQ
 * sockets. Receipts may be released without the lock. */
#ifndef QUANTPIPE_WIRE_EDGE_IN_H
#define QUANTPIPE_WIRE_EDGE_IN_H

#include <stdbool.h>
#include "libstage/base/json.h"

#include "libstage/tensor/unit.h"
#include "libstage/wire/receipt.h"
#include "libstage/wire/reference.h"

struct qp_in;

struct qp_in_config {
    const char *run, *edge, *instance; /* strings are copied where they are kept */
    int replica;
    const char *host;     /* this host's identity */
    const char *endpoint; /* of the producer */
    bool local;           /* the producer is on this host */
    bool discards;        /* reads nothing: to the producer all is acknowledged, sent or not */
    int64_t window_units, window_bytes;
    struct qp_references *references;     /* borrowed */
    const struct qp_allocator *allocator; /* for tensors that come inline; borrowed */
    int wake;                             /* an eventfd that is told when there is something to send */
};

/* Dials the producer, says hello and grants the window. */
int qp_in_open(void *context, const struct qp_in_config *config, struct qp_in **out, struct qp_error *err);
void qp_in_close_socket(struct qp_in *in);
void qp_in_free(struct qp_in *in); /* after all tensors that came through it are gone; NULL is accepted */

void *qp_in_socket(const struct qp_in *in);
const char *qp_in_edge(const struct qp_in *in);

/* The unit that is next (borrowed), or NULL when none is there yet. */
const struct qp_unit *qp_in_next(const struct qp_in *in);

/* Takes that unit off the queue. The caller holds its receipt, and releases it after qp_in_processed. */
struct qp_unit *qp_in_take(struct qp_in *in, struct qp_receipt **receipt);

/* The unit has been processed: its credit goes back to the producer. */
void qp_in_processed(struct qp_in *in, const struct qp_receipt *receipt);

/* seq of the unit that was taken last; -1 before the first. All that comes has a higher one. */
int64_t qp_in_taken(const struct qp_in *in);

bool qp_in_ended(const struct qp_in *in); /* the end unit has been taken */

/* Reads what has come, sends credit and acknowledgements. Returns 1 when something happened. */
int qp_in_poll(struct qp_in *in, struct qp_error *err);

/* Appends this edge's record, as in the body of `done`. */
void qp_in_statistics(const struct qp_in *in, json_t *records);

#endif
