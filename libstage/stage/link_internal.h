/* Shared by link.c (the main thread's side), link_thread.c (the other side) and link_config.c. */
#ifndef QUANTPIPE_STAGE_LINK_INTERNAL_H
#define QUANTPIPE_STAGE_LINK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <msgpack/sbuffer.h>

#include "libstage/stage/link.h"
#include "libstage/wire/control.h"
#include "libstage/wire/edge_in.h"
#include "libstage/wire/edge_out.h"

#define LINK_MOST 16 /* input edges of a stage; its input ports; its output ports */

/* A message for the runner that waits for the thread. */
struct outgoing {
    struct outgoing *next;
    msgpack_sbuffer data;
};

struct link {
    const struct qp_stage_desc *desc;
    const char *instance;
    int replica;
    char host[QP_HOST_SIZE]; /* identity */

    pthread_t thread;
    int wake, signals; /* eventfd; signalfd, only polled, or -1 */
    atomic_bool cancelled;

    pthread_mutex_t lock; /* guards all that follows, and what it points to */
    pthread_cond_t changed;
    bool quit, connected, bye;
    struct qp_error error; /* what the thread met, or a stop; code 0: nothing */
    double stopped_at;     /* when the process was asked to end; 0: it was not */
    json_t *config;
    void *context, *control; /* ZeroMQ's */
    struct outgoing *first, **last;
    struct qp_out *outs[LINK_MOST];
    bool has_edges[LINK_MOST], ended[LINK_MOST]; /* of outs */
    long rejected[LINK_MOST];                    /* as far as told */
    size_t out_count;
    struct qp_in *ins[LINK_MOST];
    size_t in_ports[LINK_MOST]; /* where ins lead */
    bool delayed[LINK_MOST];    /* of ins: they bring this stage's own units back */
    size_t in_count;
    struct qp_references *references;
    struct qp_pool *pool;
    int64_t most_blocks; /* that may be unacknowledged at an output port; 0: any number */
    size_t own_budget;   /* bytes of its own shared memory that may be unacknowledged */
    double waited;
    int64_t moved;       /* grows with each message of an edge that came or went, and each unit taken or emitted */
    const char *waits;   /* what the main thread waits for, as in `waits` of PROTOCOL.md; NULL: it does not */
    const char *on_edge; /* where */
    int64_t for_seq;     /* of which unit */
    int64_t unit;        /* that the stage said it works on; -1: none */
    int64_t peak_anonymous;
};

void *link_thread(void *link);
void link_wake(struct link *link);

/* Notes why the stage cannot go on (the first reason stays) and wakes the main thread. The lock is held. */
void link_fail(struct link *link, const struct qp_error *err);

/* Samples memory; the lock is held. Returns the resident set. */
int64_t link_sample(struct link *link);

#endif
