/* What connects a stage's process to the others: all its sockets, served by a thread of their own, so that heartbeats,
 * credit and acknowledgements pass while a callback computes. The functions here are for the main thread. */
#ifndef QUANTPIPE_STAGE_LINK_H
#define QUANTPIPE_STAGE_LINK_H

#include <stdbool.h>
#include "libstage/base/json.h"

#include "libstage/stage/internal.h"
#include "libstage/stage/pool.h"
#include "libstage/stage/usage.h"

struct link;

/* A unit with what has to happen after it was processed. */
struct link_unit {
    struct qp_unit *unit;
    struct qp_receipt *receipt;
    size_t edge; /* index of the input edge */
    size_t port; /* index of the input port that it leads into */
};

/* Dials the runner, binds the output ports and starts the thread. SIGTERM and SIGINT have to be blocked. */
int link_open(const struct qp_stage_desc *desc, const char *control, const char *instance, int replica,
              struct link **out, struct qp_error *err);

/* Sends what is left to send, ends the thread and frees everything. All tensors must have been released. */
void link_close(struct link *link);

/* Waits for the runner's config; a new reference. */
int link_wait_config(struct link *link, json_t **config, struct qp_error *err);

/* Connects the edges that a config names. */
int link_connect(struct link *link, const json_t *config, struct qp_error *err);
struct qp_pool *link_pool(const struct link *link);

/* Bit i: some edge leads into input port i. */
uint64_t link_connected(const struct link *link);

/* Waits for the unit that is next: of the lowest seq of all inputs, those that are delayed after the others; unit NULL
 * when all have ended. */
int link_next(struct link *link, struct link_unit *next, struct qp_error *err);

/* The unit has been processed: credit goes back, and its receipt is the emitted units' from now on. */
void link_processed(struct link *link, const struct link_unit *unit);

/* Processing it has failed: from now on nothing is acknowledged. */
void link_abandon(struct link *link, const struct link_unit *unit, const struct qp_error *err);

/* Waits for space, then queues a unit (taken over) that came of the unit `origin` (NULL for none). */
int link_emit(struct link *link, size_t port, struct qp_unit *unit, struct qp_receipt *origin, struct qp_error *err);

/* Waits until everything emitted is acknowledged; every port must have had its end unit. */
int link_drain(struct link *link, struct qp_error *err);

/* Waits for the runner's bye. */
void link_wait_bye(struct link *link);

/* Sends a message to the runner; takes `body` over. */
int link_send(struct link *link, const char *kind, json_t *body, struct qp_error *err);

/* Tells the runner that the stage works on a unit, or that it waits (-1). */
void link_send_busy(struct link *link, int64_t unit);

bool link_cancelled(const struct link *link);

/* What the stage failed of: what the thread met, or a stop, before `r`, which may be a consequence of it. */
int link_cause(struct link *link, int r, struct qp_error *err);

/* Records of all edges, as `done` carries them; a new reference. */
json_t *link_statistics(struct link *link);
double link_waited(const struct link *link);    /* seconds that link_emit waited */
int64_t link_peak_anonymous(struct link *link); /* bytes, as PROTOCOL.md defines them */

#endif
