/* The pipeline as a value: what the user's document says, checked key by key; then, once descriptors are known, the
 * graph of its stages. */
#ifndef QUANTPIPE_RUNNER_PIPELINE_PIPELINE_H
#define QUANTPIPE_RUNNER_PIPELINE_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "libstage/base/json.h"

#include "libstage/tensor/scheme/scheme.h"
#include "runner/pipeline/document.h"

#define QP_PIPELINE_VERSION 1
#define QP_MAX_INSTANCES 64
#define QP_MAX_BRANCHES 16

/* Where an input port gets its units from, as the user wrote it. */
struct qp_source {
    char *input;    /* input port; NULL: the only one */
    char *instance; /* stage instance upstream */
    char *output;   /* its output port; NULL: the only one */
    int delay;      /* 1: a feedback edge, whose units come back a block later */
    char *path;     /* of this in the document */
};

struct qp_instance {
    char *name;     /* "quantize", or "quantize@int4" in a branch */
    char *path;     /* "stages.NAME" in the document */
    int branch;     /* index of the scheme that it works for; QP_SHARED: for all */
    char *use;      /* built-in stage, NULL when `run` is given */
    char **command; /* executable and arguments, ended by NULL; known after qp_stages_describe */
    bool own;       /* a command of the user's: it runs in the pipeline's folder */
    json_t *params; /* `with`, an object */
    int threads;    /* 0: not said */
    uint64_t memory;
    struct qp_source *sources;
    size_t source_count;
    json_t *descriptor; /* what --describe printed */
    json_t *wants;      /* array of names: what stages downstream ask this one to collect */
};

/* A scheme, and the output that is made for it. */
struct qp_branch {
    char *name;               /* of the preset, or the mapping's own */
    char *path;               /* "scheme", or "scheme.1" in a list */
    char *output;             /* absolute */
    json_t *source;           /* the scheme as written */
    struct qp_scheme *scheme; /* bound to the model; NULL before qp_prepare */
};

#define QP_SHARED (-1)

struct qp_edge {
    size_t from, to; /* indexes of instances */
    const char *output, *input;
    int delay; /* 1: a feedback edge; order and features do not follow it */
    char *id;  /* "4.search-quantize": what both ends call it */
    const char *path;
};

struct qp_pipeline {
    struct qp_document *document;
    char *model, *output;                       /* absolute; the output as written: branches have their own */
    json_t *scheme;                             /* as written: one, or a list */
    uint64_t memory;                            /* bytes of all processes together; 0: not given */
    int64_t blocks;                             /* on their way at a time, besides those that stages keep back */
    bool strict;                                /* a warning is a failed gate */
    int timeout;                                /* seconds, 0: none; QP_TIMEOUT_SECONDS unless --timeout is given */
    struct qp_branch branches[QP_MAX_BRANCHES]; /* one a scheme, at least one */
    size_t branch_count;
    json_t *data;     /* object of entries, paths absolute */
    json_t *warnings; /* array of {code, where, message}: names of the version before */
    struct qp_instance *instances;
    size_t count;
    struct qp_edge *edges; /* made by qp_graph_build */
    size_t edge_count;
    size_t order[QP_MAX_INSTANCES]; /* indexes of instances, producers first */
};

/* Takes the document over, also when it fails. */
int qp_pipeline_parse(struct qp_document *document, struct qp_pipeline **out, struct qp_error *err);
void qp_pipeline_free(struct qp_pipeline *pipeline); /* NULL is accepted */

void qp_instances_free(struct qp_instance *instances, size_t count); /* NULL is accepted */
bool qp_is_name(const char *text);                                   /* of a stage: 1 to 64 letters, digits, _ and - */

struct qp_instance *qp_pipeline_find(const struct qp_pipeline *pipeline, const char *name);

/* Finds each instance's executable, asks it for its descriptor, and checks `with` against that. */
int qp_stages_describe(struct qp_pipeline *pipeline, struct qp_error *err);

/* Checks an instance's `with` against its descriptor: names, types, ranges, choices. */
int qp_params_check(const struct qp_pipeline *pipeline, const struct qp_instance *instance, struct qp_error *err);

/* Reads `scheme` and `output` into branches: a list of schemes makes one of each. */
int qp_branches_read(struct qp_pipeline *pipeline, struct qp_error *err);
void qp_branches_free(struct qp_pipeline *pipeline);

/* For a list of schemes: gives each its own copy, "NAME@SCHEME", of every stage that is after the shared ones. Shared
 * are the stages that collect statistics and all that they read from; without any, the sources. Needs descriptors. */
int qp_branches_expand(struct qp_pipeline *pipeline, struct qp_error *err);

/* Whether the user wrote a list of schemes. */
bool qp_has_branches(const struct qp_pipeline *pipeline);

/* `pattern` with `name` for "{scheme}", or after it when there are several; new memory. */
char *qp_output_of(const char *pattern, const char *name, bool several);

/* The name of an instance in the document: up to the `@`, into text (at least 65 bytes); returns it. */
const char *qp_base_name(const struct qp_instance *instance, char *text, size_t size);

/* Resolves every `from` to an edge, orders the stages, and checks: no cycle without a delay, no loose end, every
 * input's needs provided upstream, every need for statistics collected upstream (into `wants`), data where it is
 * needed. */
int qp_graph_build(struct qp_pipeline *pipeline, struct qp_error *err);

/* An instance's parameters as its stage gets them: what the user gave, and the defaults of all others that have one. A
 * new reference. */
json_t *qp_params_of(const struct qp_instance *instance);

/* The pipeline as it will run: every default, override and variable resolved. A new reference. */
json_t *qp_pipeline_resolved(const struct qp_pipeline *pipeline);

#endif
