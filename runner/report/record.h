/* What is known of a run and of its stages: execution fills it in while they work, reports read it. */
#ifndef QUANTPIPE_RUNNER_REPORT_RECORD_H
#define QUANTPIPE_RUNNER_REPORT_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libstage/base/error.h"
#include "libstage/base/json.h"
#include "runner/pipeline/prepare.h"

/* What is known of a stage's process. Times are of qp_now; 0: not yet. */
struct qp_stage_record {
    const struct qp_instance *instance;
    char hostname[256];
    double greeted_at, done_at, ended; /* its hello, its `done`, the end of its process */
    bool done;
    int64_t units_done, units_total;
    bool busy;         /* at work on `unit` since `busy_since` */
    int64_t unit;      /* its seq */
    double busy_since; /* qp_now */
    int threads;       /* that it was told to compute with last; 0: those of its config */
    json_t *spans;     /* of the timeline (timeline.h) */
    json_t *report;    /* object: key -> value */
    json_t *stage;     /* of its `done`: times, memory, units; NULL before */
    json_t *edges;     /* of its `done`; NULL before */
};

/* What came of the output of a branch. */
struct qp_output_record {
    char *written;  /* where stages write it, in a private folder; NULL before the run's folders are made */
    bool published; /* the output has its name */
};

struct qp_record {
    const struct qp_plan *plan;
    const char *folder;                        /* of the run; borrowed */
    double started;                            /* qp_now */
    struct qp_stage_record *stages;            /* one an instance, in the pipeline's order */
    size_t count;                              /* of them */
    const struct qp_output_record *outputs;    /* one a branch; borrowed */
    struct qp_error failures[QP_MAX_BRANCHES]; /* why a branch failed its gate; code 0: it did not */
    json_t *warnings; /* array of {code, where, message} and the stage, or the scheme, that it is about */
};

/* How many warnings are about a branch: its own stages', those of the stages that all share, and its scheme's. *first
 * (may be NULL) is the first of them, borrowed. */
size_t qp_branch_warnings(const struct qp_record *record, int branch, const json_t **first);

/* Whether what the last stage of a branch that measures has measured is not what its stages have written, by the
 * digests that both report (libstage/network/block_content.h); `why` says it. */
bool qp_branch_differs(const struct qp_record *record, int branch, char *why, size_t size);

/* Whether a branch whose stages are over failed a gate, or has warnings in a strict run; `why` says it. */
bool qp_branch_refused(const struct qp_record *record, int branch, char *why, size_t size);

#endif
