/* The producer's end: one output port with the edges that leave from it.
 *
 * Not thread-safe: the caller's lock guards all of it, and qp_out_poll is called by the one thread that owns the
 * ZeroMQ sockets. */
#ifndef QUANTPIPE_WIRE_EDGE_OUT_H
#define QUANTPIPE_WIRE_EDGE_OUT_H

#include <stdbool.h>
#include "libstage/base/json.h"

#include "libstage/tensor/unit.h"
#include "libstage/wire/receipt.h"

struct qp_out;

/* Binds a ROUTER at `endpoint` (ipc://PATH or tcp://ADDRESS:*). `run` comes with qp_out_configure; consumers that dial
 * before that wait. */
int qp_out_open(void *context, const char *endpoint, struct qp_out **out, struct qp_error *err);
void qp_out_free(struct qp_out *out); /* after the socket's context has been ended; NULL is accepted */
void qp_out_close_socket(struct qp_out *out);

const char *qp_out_endpoint(const struct qp_out *out); /* as bound */
void *qp_out_socket(const struct qp_out *out);

/* `host` is this host's identity. Edges are added after that. */
int qp_out_configure(struct qp_out *out, const char *run, const char *host, struct qp_error *err);
int qp_out_add_edge(struct qp_out *out, const char *edge, struct qp_error *err);

/* Queues a unit (taken over) for every edge. `origin` (may be NULL) is held until all consumers have acknowledged. seq
 * has to grow. */
int qp_out_push(struct qp_out *out, struct qp_unit *unit, struct qp_receipt *origin, struct qp_error *err);

bool qp_out_sent(const struct qp_out *out);  /* nothing waits for credit or for a consumer */
bool qp_out_empty(const struct qp_out *out); /* nothing is unacknowledged */

/* The first unit of an edge that is not sent, or, where all are, not acknowledged: false when there is none. *edge is
 * borrowed. */
bool qp_out_first(const struct qp_out *out, const char **edge, int64_t *seq);

/* The lowest number of a block that is not acknowledged; -1 when there is none. */
int64_t qp_out_first_block(const struct qp_out *out);

/* Whether some consumer of this port may be on this host: true until all have said hello from elsewhere. */
bool qp_out_local(const struct qp_out *out);

/* Reads what consumers say and sends what they have space for. Returns 1 when something happened. */
int qp_out_poll(struct qp_out *out, struct qp_error *err);

/* Messages dropped as malformed or from strangers; *why describes the last one. */
long qp_out_rejected(const struct qp_out *out, const char **why);

/* Appends a record for each edge, as in the body of `done`. */
void qp_out_statistics(const struct qp_out *out, json_t *records);

#endif
