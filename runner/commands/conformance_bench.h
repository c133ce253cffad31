/* A stage's process with a runner and peers that conformance.c plays. */
#ifndef QUANTPIPE_RUNNER_COMMANDS_CONFORMANCE_BENCH_H
#define QUANTPIPE_RUNNER_COMMANDS_CONFORMANCE_BENCH_H

#include <stdbool.h>
#include <sys/types.h>

#include "libstage/network/checkpoint.h"
#include "libstage/tensor/scheme/scheme.h"
#include "libstage/wire/control.h"
#include "libstage/wire/edge_in.h"
#include "libstage/wire/edge_out.h"

enum { QP_BENCH_PORTS = 8, QP_BENCH_UNITS = 512 };

/* What all processes of a check share. */
struct qp_subject {
    char *const *command;
    json_t *descriptor;
    struct qp_checkpoint *checkpoint;
    struct qp_scheme *scheme;
    const char *model, *text; /* text: NULL when none was given */
    char *folder;             /* for sockets and files, removed at the end */
    double timeout;           /* seconds */
    int processes;            /* so far */
};

/* A unit that the consumer has taken. */
struct qp_taken {
    struct qp_unit *unit;
    struct qp_receipt *receipt;
    enum qp_unit_kind kind;
    int64_t seq;
};

struct qp_bench {
    struct qp_subject *subject;
    pid_t pid;
    int log;
    bool ended;
    int exit_code; /* 128 + signal when it was killed */
    struct qp_control *control;
    void *context;
    int wake;
    struct qp_references *references;
    struct qp_out *outs[QP_BENCH_PORTS]; /* producers, one an input port that is not optional */
    struct qp_in *ins[QP_BENCH_PORTS];   /* consumers, one an output port */
    size_t out_count, in_count;
    int64_t fed;                           /* units pushed to each producer */
    struct qp_taken taken[QP_BENCH_UNITS]; /* by the first consumer */
    size_t taken_count;
    bool keeps; /* the consumers acknowledge nothing meanwhile, as from the beginning */
    json_t *hello, *done, *failed;
    bool ready, ready_early;
    int heartbeats;
    struct qp_error units_error, edge_error; /* what a consumer, and what a producer refused */
    char id[32], folder[512], endpoint[QP_BENCH_PORTS][600];
};

/* Starts the process and waits for its hello. 0, or QP_ERR_STAGE. */
int qp_bench_open(struct qp_subject *subject, struct qp_bench **out, struct qp_error *err);
void qp_bench_close(struct qp_bench *bench);

/* Binds the producers and dials the stage's outputs. */
int qp_bench_connect(struct qp_bench *bench, struct qp_error *err);

/* Sends config. */
int qp_bench_configure(struct qp_bench *bench, struct qp_error *err);

/* Dials the first output anew, as a consumer that has lost everything. */
int qp_bench_dial(struct qp_bench *bench, struct qp_error *err);

/* Puts all units of the model before each producer. */
int qp_bench_feed(struct qp_bench *bench, struct qp_error *err);

/* Turns everything until `is(bench)`, the process ends, or the time is over: whether it is. */
bool qp_bench_until(struct qp_bench *bench, bool (*is)(const struct qp_bench *));
void qp_bench_turn(struct qp_bench *bench, double seconds);

/* Lets all units go that were taken: they are acknowledged. */
void qp_bench_release(struct qp_bench *bench);

/* A number of the first producer's record. */
int64_t qp_bench_count(const struct qp_bench *bench, const char *key);

/* The last lines that the process wrote. */
const char *qp_bench_words(const struct qp_bench *bench, char *text, size_t size);

#endif
