/* The smallest runner: starts stages as processes of their own (forked, each runs qp_stage_main), connects them by
 * their first ports (and by their second inputs back from downstream), and notes what they say until all have ended. */
#ifndef QUANTPIPE_TESTS_FAKE_RUNNER_H
#define QUANTPIPE_TESTS_FAKE_RUNNER_H

#include <stdbool.h>
#include <sys/types.h>

#include "libstage/include/stage.h"

struct fake_stage {
    const struct qp_stage_desc *desc;
    const char *name;
    int from;           /* index of the stage that it reads from; -1: a source */
    int back;           /* index of the stage downstream that feeds it back by its second input; 0: none does */
    const char *params; /* JSON; NULL: none */
    int64_t memory;     /* 0: the stage's default */
    bool spare;         /* waits until fake_replace */

    /* What became of it. */
    pid_t pid;
    int gate; /* a byte here lets the process go */
    bool greeted, ended;
    int exit_code; /* 128 + signal when killed */
    json_t *hello, *done, *failed, *report;
    int64_t progress;
    int warnings, heartbeats, ready;
};

struct fake_run {
    struct fake_stage *stages;
    int count;
    int64_t blocks;                  /* that may be on their way; 0: the stages' default */
    bool tcp;                        /* control and data over tcp://127.0.0.1 */
    void (*hook)(struct fake_run *); /* called now and then while stages live */
    char id[32];
    bool timed_out, replaced;
    struct qp_control *control;
};

/* Runs to the end; `folder` is for sockets and scratch, and may hold model files. When a stage fails, the others are
 * stopped. */
void fake_run(struct fake_run *run, const char *folder);
void fake_drop(struct fake_run *run); /* frees what was noted */

/* Kills a stage and lets a spare take its name and place. */
void fake_replace(struct fake_run *run, int victim, int spare);

/* A number of the record that a stage's `done` has for the edge between two stages. */
long fake_edge(const struct fake_run *run, int stage, int from, int to, const char *key);

#endif
