/* Starting the stages of a run and watching them to the end: one poll loop over the control socket and the signals,
 * SIGCHLD among them. */
#ifndef QUANTPIPE_RUNNER_EXECUTION_SUPERVISE_H
#define QUANTPIPE_RUNNER_EXECUTION_SUPERVISE_H

#include <stdbool.h>
#include <sys/types.h>

#include "libstage/wire/control.h"
#include "runner/execution/drain.h"
#include "runner/execution/run.h"

/* A stage's process. */
struct qp_child {
    const struct qp_instance *instance;
    struct qp_stage_record *record; /* what it has reported */
    pid_t pid;
    int log; /* its stdout and stderr; -1: none */
    char *log_path;
    bool greeted, ready, over;
    double message_at;       /* when its last message came */
    int status;              /* of wait */
    char host[QP_HOST_SIZE]; /* identity, from hello */
    json_t *endpoints;       /* of its output ports, from hello */
    double cpu_seconds;      /* so far */
    bool waits;              /* its last message about its work was that it waits, */
    char waits_for[16];      /* for this, */
    char waits_on[192];      /* on this edge, */
    int64_t waits_seq;       /* of this unit */
    int64_t moved;           /* of its last `waits` */
    int repeated;            /* how many in a row had that, or since a stage was done */
    double moved_at; /* when that was another number, or another message about its work came, or its config went */
};

/* The early end of a branch whose gate failed (record.failures): its stages are stopped, the other branches go on. */
struct qp_branch_end {
    int force; /* as the supervisor's, for the branch alone */
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
    bool stall_told;       /* that nothing moves has been said, and is still so */
    bool stopping;         /* everything is to end, because of `cause` */
    int force;             /* steps taken to make it end: stop, SIGTERM, SIGKILL */
    double stop_at;        /* when the stop began */
    struct qp_error cause; /* the first thing that went wrong; code 0: nothing */
    struct qp_branch_end ends[QP_MAX_BRANCHES];
    struct qp_record record; /* for progress and the report */
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

/* Ends a run in which stages wait for what never comes: at once where that is certain, and where nothing has moved and
 * no stage has told that it computes for longer than the limit. */
void qp_look_after_waits(struct qp_supervisor *s);

/* Compares what a stage counted in its `done` with what the other ends of its edges counted; a difference ends the run.
 */
void qp_check_counts(struct qp_supervisor *s, const struct qp_child *c);

/* Handles one message of a stage; takes the body over. */
void qp_supervisor_handle(struct qp_supervisor *s, struct qp_control_message *message);

/* Ends what has to end because this stage failed with `code`: its branch for a gate, else the run. What fails while it
 * is being stopped is a consequence. */
void qp_supervisor_fail(struct qp_supervisor *s, struct qp_child *child, int code, const char *message);

/* Notes the first cause and begins to stop everything; later ones are consequences. */
void qp_supervisor_stop(struct qp_supervisor *s, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
