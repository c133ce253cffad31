/* A run on disk: its folder, its lock, its private sockets, and what it may leave behind when it is cut short. */
#ifndef QUANTPIPE_RUNNER_RUN_H
#define QUANTPIPE_RUNNER_RUN_H

#include <jansson.h>

#include "runner/prepare.h"

struct qp_run {
    const struct qp_plan *plan;
    char id[17];    /* 16 hexadecimal digits: in the names of its shared memory */
    char *folder;   /* of logs, scratch files and the report: for the user */
    char *sockets;  /* a folder of mode 0700 that goes with the run */
    int lock;       /* held while the run lives */
    double started; /* CLOCK_MONOTONIC, seconds */
};

/* Makes and locks the run folder with run.json, the resolved pipeline, logs/ and scratch/INSTANCE/. A folder of a run
 * that is over is replaced, with what that run left; one of a run that lives, or of anything else, is an error. */
int qp_run_open(const struct qp_plan *plan, struct qp_run *out, struct qp_error *err);

/* Removes sockets, shared memory and scratch files, and a half-written output; keeps logs and reports. */
void qp_run_close(struct qp_run *run);

/* Where a branch's output is written: under its name, or beside it while a strict run has not passed. New memory. */
char *qp_run_output(const struct qp_run *run, const struct qp_branch *branch);

/* Paths of all outputs, in the order of the schemes; a new reference. */
json_t *qp_run_outputs(const struct qp_pipeline *pipeline);

/* A path in the run folder, new memory. */
char *qp_run_path(const struct qp_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* CLOCK_MONOTONIC in seconds. */
double qp_now(void);

#endif
