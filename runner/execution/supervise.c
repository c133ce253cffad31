#include "runner/execution/supervise.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/times.h"
#include "runner/process.h"
#include "runner/report/progress.h"
#include "runner/execution/signals.h"
#include "runner/machine.h"

/* ---- ending ---- */

/* Step 1 asks, step 2 sends SIGTERM, step 3 SIGKILL to all that a stage started: the stages of a branch, or all of them
 * (QP_SHARED). */
static void force(struct qp_supervisor *s, int branch, int *done, int step)
{
    struct qp_error ignored;
    for (; *done < step; ++*done)
        for (size_t i = 0; i < s->count; i++) {
            struct qp_child *c = &s->children[i];
            if (c->over || c->pid <= 0 || (branch != QP_SHARED && c->instance->branch != branch))
                continue;
            if (*done == 0 && c->greeted)
                qp_control_send(s->control, c->instance->name, 0, "stop", NULL, &ignored);
            else
                kill(*done == 2 ? -c->pid : c->pid, *done == 2 ? SIGKILL : SIGTERM);
        }
}

void qp_supervisor_stop(struct qp_supervisor *s, int code, const char *format, ...)
{
    if (s->stopping)
        return;
    va_list args;
    va_start(args, format);
    qp_vfail(&s->cause, code, format, args);
    va_end(args);
    s->stopping = true;
    s->stop_at = qp_now();
    force(s, QP_SHARED, &s->force, 1);
}

static void press(struct qp_supervisor *s, int branch, int *done, double stop_at)
{
    double since = qp_now() - stop_at;
    if (since > QP_TERM_SECONDS)
        force(s, branch, done, since > QP_KILL_SECONDS ? 3 : 2);
}

static void handle_signals(struct qp_supervisor *s)
{
    int signal;
    while ((signal = qp_signals_take())) {
        if (signal == SIGCHLD)
            continue; /* look_after sees whose */
        qp_progress_hurry(s->progress);
        if (s->stopping && s->cause.code == QP_ERR_INTERRUPTED)
            force(s, QP_SHARED, &s->force, 3); /* asked twice */
        else
            qp_supervisor_stop(s, QP_ERR_INTERRUPTED, "stopped by %s; nothing half-written is left",
                               signal == SIGINT    ? "SIGINT (Ctrl-C)"
                               : signal == SIGTERM ? "SIGTERM"
                                                   : "SIGHUP");
    }
}

/* ---- branches ---- */

static bool is_stopping(const struct qp_supervisor *s, const struct qp_child *c)
{
    int branch = c->instance->branch;
    return s->stopping || (branch != QP_SHARED && s->record.failures[branch].code);
}

static size_t failed_branches(const struct qp_supervisor *s)
{
    size_t failed = 0;
    for (size_t i = 0; i < s->run->plan->pipeline->branch_count; i++)
        failed += s->record.failures[i].code != 0;
    return failed;
}

void qp_supervisor_fail(struct qp_supervisor *s, struct qp_child *child, int code, const char *message)
{
    int branch = child->instance->branch;
    if (is_stopping(s, child))
        return;
    qp_progress_stage(s->progress, child->instance->name, "failed");
    if (code != QP_ERR_GATE || branch == QP_SHARED) {
        qp_supervisor_stop(s, code, "%s", message);
        return;
    }
    struct qp_branch_end *end = &s->ends[branch];
    qp_fail(&s->record.failures[branch], code, "%s", message);
    end->stop_at = qp_now();
    force(s, branch, &end->force, 1);
    if (failed_branches(s) == s->run->plan->pipeline->branch_count)
        qp_supervisor_stop(s, code, "%s", message);
}

static bool is_gone(const struct qp_supervisor *s, int branch)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->children[i].instance->branch == branch && s->children[i].pid > 0 && !s->children[i].over)
            return false;
    return true;
}

/* Sees a failed branch to its end, and then takes its place. */
static void look_after_branch(struct qp_supervisor *s, int branch)
{
    struct qp_branch_end *end = &s->ends[branch];
    struct qp_error err;
    int r = 0;
    if (!s->record.failures[branch].code || s->stopping)
        return;
    press(s, branch, &end->force, end->stop_at);
    if (!end->drain && s->configured && is_gone(s, branch))
        r = qp_drain_open(s, branch, &end->drain, &err);
    if (r == 0 && end->drain)
        r = qp_drain_poll(end->drain, &err);
    if (r < 0)
        qp_supervisor_stop(s, r, "in place of scheme `%s`: %s", s->run->plan->pipeline->branches[branch].name,
                           err.message);
}

/* ---- ends of processes ---- */

static void reap(struct qp_child *c)
{
    if (c->pid <= 0 || c->record->ended > 0)
        return;
    pid_t r = waitpid(c->pid, &c->status, WNOHANG);
    bool gone = r < 0 && errno == ECHILD; /* somebody else has its status; it has ended all the same */
    if (gone || (r == c->pid && !WIFSTOPPED(c->status)))
        c->record->ended = qp_now();
}

/* A process that ended without a message: its code alone is no verdict, but for a gate's. */
static void judge_end(struct qp_supervisor *s, struct qp_child *c)
{
    char why[64], tail[1024];
    qp_status_text(c->status, why, sizeof why);
    c->over = true;
    c->record->busy = false;
    if (c->record->done && c->status != 0)
        json_array_append_new(
            s->record.warnings,
            json_pack("{s:s, s:s, s:o, s:s}", "code", "exit", "where", c->instance->name, "message",
                      json_sprintf("after it was done the stage ended with %s; see %s", why, c->log_path), "stage",
                      c->instance->name));
    if (c->record->done || is_stopping(s, c))
        return;
    const char *tail_of_log = qp_tail(c->log, tail, sizeof tail);
    bool gate = WIFEXITED(c->status) && WEXITSTATUS(c->status) == -QP_ERR_GATE;
    struct qp_error err;
    qp_fail(&err, gate ? QP_ERR_GATE : QP_ERR_STAGE, "stage `%s` ended with %s before it was done; its log is %s%s%s",
            c->instance->name, why, c->log_path, *tail_of_log ? ", and ends with:\n" : ", and is empty", tail_of_log);
    qp_supervisor_fail(s, c, err.code, err.message);
}

static int timeout_of(const struct qp_supervisor *s)
{
    return s->run->plan->pipeline->timeout;
}

static bool is_late(const struct qp_supervisor *s, double since)
{
    return timeout_of(s) > 0 && qp_now() - since > timeout_of(s);
}

static void look_after(struct qp_supervisor *s, struct qp_child *c)
{
    double now = qp_now();
    reap(c);
    if (!c->over && c->record->ended > 0 &&
        (c->record->done || is_stopping(s, c) || now - c->record->ended > QP_LAST_MESSAGES_SECONDS))
        judge_end(s, c);
    if (!c->greeted || c->over || c->record->ended > 0 || is_stopping(s, c) || !is_late(s, c->message_at))
        return;
    if (qp_process_is_traced(c->pid))
        c->message_at = now;
    else
        qp_supervisor_stop(s, QP_ERR_STAGE,
                           "stage `%s` (process %d) has been silent for %d seconds, though heartbeats come every "
                           "second; its log is %s; --timeout sets another limit",
                           c->instance->name, (int)c->pid, timeout_of(s), c->log_path);
}

/* ---- the beginning ---- */

static void check_hellos(struct qp_supervisor *s)
{
    char missing[512] = "";
    bool traced = false;
    if (s->stopping || !is_late(s, s->patient_since))
        return;
    for (size_t i = 0; i < s->count; i++) {
        const struct qp_child *c = &s->children[i];
        if (c->greeted || is_stopping(s, c))
            continue;
        snprintf(missing + strlen(missing), sizeof missing - strlen(missing), "%s%s", missing[0] ? ", " : "",
                 c->instance->name);
        traced = traced || qp_process_is_traced(c->pid);
    }
    if (traced)
        s->patient_since = qp_now();
    else if (missing[0])
        qp_supervisor_stop(s, QP_ERR_STAGE,
                           "no hello within %d seconds from: %s; their logs are in %s/logs; --timeout sets another "
                           "limit",
                           timeout_of(s), missing, s->run->folder);
}

static void configure(struct qp_supervisor *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (!s->children[i].greeted && !is_stopping(s, &s->children[i]))
            return;
    s->configured = true;
    for (size_t i = 0; i < s->count; i++) {
        if (is_stopping(s, &s->children[i]))
            continue;
        struct qp_error err = {0};
        qp_auto_json json_t *config = qp_child_config(s, i);
        int r = config ? qp_control_send(s->control, s->children[i].instance->name, 0, "config", config, &err)
                       : qp_fail(&err, QP_ERR_STAGE, "the config of stage `%s` could not be made",
                                 s->children[i].instance->name);
        if (r < 0)
            qp_supervisor_stop(s, r, "%s", err.message);
        s->children[i].moved_at = qp_now();
    }
}

/* ---- the loop ---- */

static void handle_messages(struct qp_supervisor *s)
{
    struct qp_control_message message;
    struct qp_error err;
    int r;
    while ((r = qp_control_receive(s->control, 0, &message, &err)) > 0)
        qp_supervisor_handle(s, &message);
    if (r < 0)
        qp_supervisor_stop(s, r, "%s", err.message);
}

static void wait_for_something(struct qp_supervisor *s)
{
    struct pollfd fds[] = {{.fd = s->signals, .events = POLLIN}, {.fd = qp_control_fd(s->control), .events = POLLIN}};
    poll(fds, 2, QP_TICK_MS); /* a negative descriptor is ignored; errors are found by what follows */
}

static bool is_over(const struct qp_supervisor *s)
{
    for (size_t i = 0; i < s->count; i++)
        if (s->children[i].pid > 0 && !s->children[i].over)
            return false;
    return true;
}

static void watch(struct qp_supervisor *s)
{
    while (!is_over(s)) {
        wait_for_something(s);
        handle_signals(s);
        handle_messages(s);
        if (!s->configured && !s->stopping) {
            configure(s);
            check_hellos(s);
        }
        for (size_t i = 0; i < s->count; i++)
            look_after(s, &s->children[i]);
        qp_look_after_waits(s);
        for (size_t i = 0; i < s->run->plan->pipeline->branch_count; i++)
            look_after_branch(s, (int)i);
        if (s->stopping)
            press(s, QP_SHARED, &s->force, s->stop_at);
        qp_progress_tick(s->progress, &s->record, false);
    }
}

static int open_all(struct qp_supervisor *s, struct qp_error *err)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    s->record.warnings = json_deep_copy(s->run->plan->warnings);
    s->children = calloc(p->count, sizeof *s->children);
    s->record.stages = calloc(p->count, sizeof *s->record.stages);
    qp_auto_free char *endpoint = qp_format("ipc://%s/control", s->run->sockets);
    if (!s->children || !s->record.stages || !s->record.warnings || !endpoint)
        return qp_fail_memory(err, 0, "the supervisor");
    s->count = s->record.count = p->count;
    for (size_t i = 0; i < p->count; i++) {
        s->record.stages[i] =
            (struct qp_stage_record){.instance = &p->instances[i], .report = json_object(), .spans = json_array()};
        s->children[i] = (struct qp_child){.instance = &p->instances[i], .record = &s->record.stages[i], .log = -1};
    }
    qp_signals_block();
    s->signals = qp_signals_descriptor();
    return qp_control_open(endpoint, &s->control, err);
}

/* What is known before the start. */
static void print_warnings(const struct qp_supervisor *s)
{
    size_t i;
    json_t *warning;
    json_array_foreach(s->record.warnings, i, warning)
        qp_progress_print(s->progress, "scheme", "warning", warning);
}

int qp_supervise(struct qp_run *run, struct qp_progress *progress, struct qp_supervisor *out, struct qp_error *err)
{
    struct qp_record record = {
        .plan = run->plan, .folder = run->folder, .started = run->started, .outputs = run->output_records};
    *out = (struct qp_supervisor){
        .run = run, .progress = progress, .signals = -1, .patient_since = qp_now(), .record = record};
    int r = open_all(out, err);
    if (r < 0)
        return r;
    print_warnings(out);
    if (run->plan->pipeline->strict && json_array_size(out->record.warnings) > 0)
        return qp_outputs_publish(run, &out->record, err); /* nothing has to be computed to know it */
    struct qp_error start = {0};
    if (qp_launch(out, &start) < 0)
        qp_supervisor_stop(out, start.code, "%s", start.message);
    watch(out);
    qp_progress_tick(progress, &out->record, true);
    if (out->stopping)
        return qp_fail(err, out->cause.code, "%s", out->cause.message);
    return qp_outputs_publish(run, &out->record, err);
}

void qp_supervisor_free(struct qp_supervisor *supervisor)
{
    qp_control_close(supervisor->control);
    for (size_t i = 0; i < supervisor->count; i++) {
        struct qp_child *c = &supervisor->children[i];
        json_decref(c->endpoints);
        free(c->log_path);
        if (c->log >= 0)
            close(c->log);
    }
    for (size_t i = 0; i < QP_MAX_BRANCHES; i++)
        qp_drain_free(supervisor->ends[i].drain);
    for (size_t i = 0; i < supervisor->record.count; i++) {
        const struct qp_stage_record *stage = &supervisor->record.stages[i];
        json_decref(stage->report);
        json_decref(stage->spans);
        json_decref(stage->stage);
        json_decref(stage->edges);
    }
    free(supervisor->record.stages);
    free(supervisor->children);
    json_decref(supervisor->record.warnings);
    if (supervisor->signals >= 0)
        close(supervisor->signals);
}
