/* A run on disk: its folder, its lock, its private sockets, and what it may leave when it is cut short. */
#ifndef QUANTPIPE_RUNNER_EXECUTION_RUN_H
#define QUANTPIPE_RUNNER_EXECUTION_RUN_H

#include "libstage/base/json.h"

#include "libstage/base/lock.h"
#include "runner/execution/outputs.h"
#include "runner/pipeline/prepare.h"
#include "runner/report/record.h"

struct qp_run {
    const struct qp_plan *plan;
    char id[17];                               /* 16 hexadecimal digits: in the names of its shared memory */
    char *folder;                              /* of logs, scratch files and the report: for the user */
    char *sockets;                             /* a folder of mode 0700 that goes with the run */
    struct qp_lock lock;                       /* beside the folder, held while the run lives */
    bool made;                                 /* the folder was not there before */
    struct qp_output outputs[QP_MAX_BRANCHES]; /* one a branch */
    struct qp_output_record output_records[QP_MAX_BRANCHES];
    double started; /* CLOCK_MONOTONIC, seconds */
};

/* Locks the outputs and the run folder, and makes the folder with run.json, the resolved pipeline, logs/ and
 * scratch/INSTANCE/. In the folder of a run that is over, what that run made is replaced, and what it left elsewhere is
 * removed; whatever else lies there stays. A folder of a run that lives, or of anything else, is an error. */
int qp_run_open(const struct qp_plan *plan, struct qp_run *out, struct qp_error *err);

/* Removes sockets, shared memory, scratch files and the temporary folders of the outputs; keeps logs and reports. */
void qp_run_close(struct qp_run *run);

/* Unlinks the shared memory that processes of the run `id` have made and left. */
void qp_remove_shared_memory(const char *id);

/* Paths of all outputs, in the order of the schemes; a new reference. */
json_t *qp_run_outputs(const struct qp_pipeline *pipeline);

/* A path in the run folder, new memory. */
char *qp_run_path(const struct qp_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
