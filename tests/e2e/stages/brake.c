/* brake: a stage for tests of what runs do at a unit, not at a time. It passes units on; at the one of number `unit` it
 * makes the file `flag`, and then goes on, kills itself, or waits until the file `until` exists or the run is stopped.
 * Memory: none. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libstage/include/stage.h"

struct state {
    int64_t unit, seen;
    const char *then, *flag, *until;
};

static const char *const choices[] = {"go on", "die", "wait", NULL};
static const struct qp_param params[] = {
    {.name = "unit",
     .type = QP_PARAM_INT,
     .fallback = "4",
     .min = 1,
     .max = 1e6,
     .help = "the unit at which it happens, counted from 1",
     .offset = offsetof(struct state, unit)},
    {.name = "then",
     .type = QP_PARAM_STRING,
     .fallback = "wait",
     .choices = choices,
     .help = "what happens",
     .offset = offsetof(struct state, then)},
    {.name = "flag", .type = QP_PARAM_STRING, .help = "the file to make", .offset = offsetof(struct state, flag)},
    {.name = "until",
     .type = QP_PARAM_STRING,
     .help = "the file to wait for; unset: wait until the run is stopped",
     .offset = offsetof(struct state, until)},
    {0}};
static const struct qp_port inputs[] = {{.name = "in", .help = "any units"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same units"}, {0}};

static int make_flag(const char *flag, struct qp_error *err)
{
    FILE *file = fopen(flag, "w");
    if (!file)
        return qp_fail(err, QP_ERR_INPUT, "%s: cannot be made", flag);
    fclose(file);
    return 0;
}

static int wait_for(struct qp_stage *stage, const char *until, struct qp_error *err)
{
    while (!until || access(until, F_OK) != 0) {
        if (qp_stage_cancelled(stage))
            return qp_fail(err, QP_ERR_INTERRUPTED, "cancelled");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 0;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    int r = 0;
    if (++s->seen == s->unit) {
        r = s->flag ? make_flag(s->flag, err) : 0;
        if (strcmp(s->then, "die") == 0)
            raise(SIGKILL);
        if (r == 0 && strcmp(s->then, "wait") == 0)
            r = wait_for(stage, s->until, err);
    }
    return qp_stage_pass(stage, unit, r, err);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "brake",
    .summary = "waits or dies at a unit",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .sequential = true,
    .stateful = true,
    .process = process,
};
