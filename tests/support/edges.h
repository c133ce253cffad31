/* Both ends of an edge in one process, turned by hand; and tensors to send over it. */
#ifndef QUANTPIPE_TESTS_EDGES_H
#define QUANTPIPE_TESTS_EDGES_H

#include <stdbool.h>

#include "libstage/wire/edge_in.h"
#include "libstage/wire/edge_out.h"

#define EDGES_RUN "testrun"

struct edges {
    void *context;
    struct qp_out *out;
    struct qp_in *in;
    struct qp_references *references;
    struct qp_error error; /* of the last step that failed */
    int wake;
};

/* One port bound at `endpoint` with the edge "a->b". References may lie below `root`. */
void edges_open(struct edges *edges, const char *endpoint, const char *root);

/* Dials it as the consumer, from this host or from another one. A consumer from before is closed. */
void edges_dial(struct edges *edges, bool same_host, int64_t window_units, int64_t window_bytes);

/* The same as a consumer that reads nothing. */
void edges_discard(struct edges *edges);

void edges_close(struct edges *edges);

/* Turns both ends until `done(edges)`; false when an end failed or nothing of that kind happened in time. */
bool edges_poll(struct edges *edges, bool (*done)(const struct edges *));
/* The same until a number of the producer's record is `value`, and for a while after it: so that more would show. */
bool edges_stay_at(struct edges *edges, const char *key, long value);
void edges_poll_for(struct edges *edges, int milliseconds);

bool edges_has_unit(const struct edges *edges);
bool edges_all_sent(const struct edges *edges);
bool edges_all_acknowledged(const struct edges *edges);

/* Takes the unit that is there, checks its seq, and says that it has been processed and acknowledged. */
struct qp_unit *edges_take(struct edges *edges, int64_t seq);

/* A number of an edge's record. */
long edges_count(const struct edges *edges, bool producer, const char *key);

/* A unit with one U8 tensor "t" of `size` bytes, each the low byte of its index plus seq; in `storage`, or on the heap
 * when that is NULL. */
struct qp_unit *edges_unit(enum qp_unit_kind kind, int64_t seq, size_t size, struct qp_storage *storage);
bool edges_intact(const struct qp_unit *unit, size_t size);

#endif
