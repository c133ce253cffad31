/* What the parts of qp_graph_build share. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_GRAPH_H
#define QUANTPIPE_RUNNER_PIPELINE_GRAPH_H

#include "runner/pipeline/pipeline.h"

/* The descriptor's array of ports; side: "inputs" or "outputs". */
const json_t *qp_ports_of(const struct qp_instance *instance, const char *side);

/* A string of a port, a parameter or a need; NULL when it has none. */
const char *qp_text_of(const json_t *object, const char *key);

/* The object of a list whose `key` ("name", or "was" for its old name) is `name`; NULL: none. Borrowed. */
const json_t *qp_named(const json_t *list, const char *key, const char *name);

/* Whether an edge leads into a port of an instance (`input`), or out of it. */
bool qp_has_edge(const struct qp_pipeline *pipeline, size_t instance, bool input, const char *port);

/* Adds what the instance's active needs ask for to `wants` of the nearest stage upstream that collects it, and checks
 * that the data which either of them reads is there. Edges and order have to be known. */
int qp_needs_place(struct qp_pipeline *pipeline, size_t index, struct qp_error *err);

/* Whether the instance needs any statistics, as its parameters and schemes are. */
bool qp_needs_any(const struct qp_pipeline *pipeline, size_t index);

/* What an instance is told that stages downstream want: its `wants`, and those of its forms that all stages after it
 * take. A new reference. */
json_t *qp_wants_of(const struct qp_pipeline *pipeline, size_t index);

/* The statistics that are collected for the run and that no stage after an instance reads. A new reference. */
json_t *qp_drops_of(const struct qp_pipeline *pipeline, size_t index);

/* Refuses a graph that forks and joins around a stage that keeps units back, so that its stages would wait for each
 * other for ever: QP_ERR_INPUT names both paths. Needs the order. */
int qp_holds_check(const struct qp_pipeline *pipeline, struct qp_error *err);

/* How many blocks may be on their way at a time, from the stage that makes them to the last acknowledgement: those that
 * keep the slowest stage busy, and those that stages keep back. */
int64_t qp_blocks_on_the_way(const struct qp_pipeline *pipeline);

#endif
