/* Starting the stages of a run and watching them to the end: one poll loop over the control socket and the signals,
 * SIGCHLD among them. */
#ifndef QUANTPIPE_RUNNER_SUPERVISE_H
#define QUANTPIPE_RUNNER_SUPERVISE_H

#include <stdbool.h>
#include <sys/types.h>

#include "libstage/wire/control.h"
#include "runner/drain.h"
#include "runner/run.h"

/* A stage's process, and what it said. */
struct qp_child {
    const struct qp_instance *instance;
    pid_t pid;
    int log; /* its stdout and stderr; -1: none */
    char *log_path;
    bool greeted, ready, done, over;
    double heard; /* when it said something last */
    double ended; /* when its process ended */
    double greeted_at, done_at;
    int status;    /* of wait */
    char host[65]; /* identity, from hello */
    char hostname[256];
    json_t *endpoints; /* of its output ports, from hello */
    int64_t units_done, units_total;
    bool busy;          /* at work on `unit` since `busy_since` */
    int64_t unit;       /* its seq */
    double busy_since;  /* qp_now */
    double cpu_seconds; /* so far */
    bool waits;         /* its last word was that it waits, */
    char waits_for[16]; /* for this, */
    char waits_on[192]; /* on this edge, */
    int64_t waits_seq;  /* of this unit */
    int64_t moved;      /* of its last `waits` */
    double moved_at;    /* when that was another number, or the stage said something else about its work */
    int threads;        /* that it was told to compute with last; 0: those of its config */
    json_t *spans;      /* of the timeline (runner/timeline.h) */
    json_t *report;     /* object: key -> value */
    json_t *stage;      /* of its `done`: times, memory, units; NULL before */
    json_t *edges;      /* of its `done`; NULL before */
};

/* The early end of a branch whose gate failed: its stages are stopped, the other branches go on. */
struct qp_branch_end {
    struct qp_error cause; /* code 0: it has not failed */
    int force;             /* as the supervisor's, for the branch alone */
    double stop_at;
    struct qp_drain *drain; /* takes its place, once its stages are gone */
};

struct qp_progress;

struct qp_supervisor {
    struct qp_run *run;
    struct qp_control *control;
    struct qp_progress *progress;
    struct qp_child *children; /* one an instance, in the pipeline's order */
    size_t count;
    int signals;           /* qp_signals_descriptor */
    double patient_since;  /* start of the wait for hellos */
    bool configured;       /* every stage has its config */
    bool stopping;         /* everything is to end, because of `cause` */
    int force;             /* steps taken to make it end: stop, SIGTERM, SIGKILL */
    double stop_at;        /* when the stop began */
    struct qp_error cause; /* the first thing that went wrong; code 0: nothing */
    struct qp_branch_end ends[QP_MAX_BRANCHES];
    json_t *warnings; /* array of {code, where, message} and the stage, or the scheme, that it is about */
};

/* Runs the stages to their end. 0 when all are done; else the code of the first cause, with its message. A gate that
 * fails in a branch ends that branch alone. The supervisor keeps what was learnt, for the report, until
 * qp_supervisor_free. */
int qp_supervise(struct qp_run *run, struct qp_progress *progress, struct qp_supervisor *out, struct qp_error *err);
void qp_supervisor_free(struct qp_supervisor *supervisor);

/* ---- parts of it, in files of their own ---- */

/* Starts every stage's process. */
int qp_launch(struct qp_supervisor *s, struct qp_error *err);

/* The config message of a stage; every endpoint must be known. A new reference, NULL without memory. */
json_t *qp_child_config(const struct qp_supervisor *s, size_t index);

/* Folders whose files may be referenced: the model's, those that its files are links into, and the run's scratch, where
 * stages keep what they pass on later. A new reference. */
json_t *qp_run_roots(const struct qp_run *run);

/* Handles one message of a stage; takes the body over. */
void qp_supervisor_hear(struct qp_supervisor *s, struct qp_control_message *message);

/* Ends what has to end because this stage failed with `code`: its branch for a gate, else the run. What fails while it
 * is being stopped is a consequence. */
void qp_supervisor_fail(struct qp_supervisor *s, struct qp_child *child, int code, const char *message);

/* How many warnings are about a branch: its own stages', those of the stages that all share, and its scheme's. *first
 * (may be NULL) is the first of them, borrowed. */
size_t qp_branch_warnings(const struct qp_supervisor *s, int branch, const json_t **first);

/* Whether a branch whose stages are over failed a gate, or has warnings in a strict run; `why` says it. */
bool qp_branch_refused(const struct qp_supervisor *s, int branch, char *why, size_t size);

/* After the stages' end: QP_ERR_GATE when a branch failed a gate, or, in a strict run, has warnings. The outputs that
 * have passed are published here. */
int qp_verdict(const struct qp_supervisor *s, struct qp_error *err);

/* Notes the first cause and begins to stop everything; later ones are consequences. */
void qp_supervisor_stop(struct qp_supervisor *s, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
