/* How many threads each stage computes with.
 *
 * Cores go to the stages that are at work, in proportion to the CPU time that each has taken so far: all work on the
 * same units, so the stage that takes longest gets most. A stage that works alone has all cores. What is arranged anew
 * whenever a stage begins or ends is taken over between two operations, so no core waits for the end of a unit. */
#ifndef QUANTPIPE_RUNNER_EXECUTION_THREADS_H
#define QUANTPIPE_RUNNER_EXECUTION_THREADS_H

#include <stdbool.h>
#include <stddef.h>

/* What is known of a stage. */
struct qp_demand {
    bool busy;
    double cpu_seconds; /* so far */
    int pinned;         /* `place: {threads}`; 0: not said */
};

/* threads[i] of each of `count` stages that is busy, 0 of the others. At least 1, so stages that need little come on
 * top of the cores; else the sum exceeds them by rounding only. */
void qp_share_threads(int cores, size_t count, const struct qp_demand *demands, int *threads);

struct qp_supervisor;

/* Shares the cores of this machine among the stages and tells those whose number changes. */
void qp_arrange_threads(struct qp_supervisor *s);

#endif
