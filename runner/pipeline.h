/* The pipeline as a value: what the user's document says, checked key by key; then, once descriptors are known, the
 * graph of its stages. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_H
#define QUANTPIPE_RUNNER_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#include "runner/document.h"

#define QP_PIPELINE_VERSION 1
#define QP_MAX_INSTANCES 64

/* Where an input port gets its units from, as the user wrote it. */
struct qp_source {
    char *input;    /* input port; NULL: the only one */
    char *instance; /* stage instance upstream */
    char *output;   /* its output port; NULL: the only one */
    char *path;     /* of this in the document */
};

struct qp_instance {
    char *name;
    char *path;     /* "stages.NAME" in the document */
    char *use;      /* built-in stage, NULL when `run` is given */
    char **command; /* executable and arguments, ended by NULL; known after qp_stages_describe */
    bool own;       /* a command of the user's: it runs in the pipeline's folder */
    json_t *params; /* `with`, an object */
    int threads;    /* 0: not said */
    uint64_t memory;
    struct qp_source *sources;
    size_t source_count;
    json_t *descriptor; /* what --describe printed */
    json_t *wants;      /* array of words: what stages downstream ask this one to collect */
};

struct qp_edge {
    size_t from, to; /* indexes of instances */
    const char *output, *input;
    char *id; /* "4.search-quantize": what both ends call it */
    const char *path;
};

struct qp_pipeline {
    struct qp_document *document;
    char *model, *output; /* absolute */
    json_t *scheme;       /* as written */
    json_t *data;         /* object of entries, paths absolute */
    struct qp_instance *instances;
    size_t count;
    struct qp_edge *edges; /* made by qp_graph_build */
    size_t edge_count;
    size_t order[QP_MAX_INSTANCES]; /* indexes of instances, producers first */
};

/* Takes the document over, also when it fails. */
int qp_pipeline_parse(struct qp_document *document, struct qp_pipeline **out, struct qp_error *err);
void qp_pipeline_free(struct qp_pipeline *pipeline); /* NULL is accepted */

struct qp_instance *qp_pipeline_find(const struct qp_pipeline *pipeline, const char *name);

/* Finds each instance's executable, asks it for its descriptor, and checks `with` against that. */
int qp_stages_describe(struct qp_pipeline *pipeline, struct qp_error *err);

/* Checks an instance's `with` against its descriptor: names, types, ranges, choices. */
int qp_params_check(const struct qp_pipeline *pipeline, const struct qp_instance *instance, struct qp_error *err);

/* Resolves every `from` to an edge, orders the stages, and checks: no cycle, no loose end, every input's needs provided
 * upstream, every need for statistics collected upstream (into `wants`), data where it is needed. */
int qp_graph_build(struct qp_pipeline *pipeline, struct qp_error *err);

/* The pipeline as it will run: every default, override and variable resolved. A new reference. */
json_t *qp_pipeline_resolved(const struct qp_pipeline *pipeline);

#endif
