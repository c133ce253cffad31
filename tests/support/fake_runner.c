#include "tests/support/fake_runner.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <criterion/criterion.h>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/lsan_interface.h>
#endif

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/control.h"

#define PATIENCE_SECONDS 60

/* ---- processes ---- */

static void be_stage(const struct fake_stage *stage, int gate)
{
    char control[256] = "";
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(gate, control, sizeof control - 1) <= 0)
        _exit(99);
    char *argv[] = {(char *)stage->name, "--control", control, "--instance",
                    (char *)stage->name, "--replica", "0",     NULL};
    int code = qp_stage_main(stage->desc, 7, argv);
    fflush(NULL);
#if defined(__SANITIZE_ADDRESS__)
    if (__lsan_do_recoverable_leak_check())
        code = 98;
#endif
    _exit(code);
}

/* All processes are forked before this one has threads; a stage waits at its gate for the control endpoint. */
static void start_process(struct fake_stage *stage)
{
    int gate[2];
    cr_assert_eq(pipe2(gate, O_CLOEXEC), 0);
    fflush(NULL);
    stage->pid = fork();
    cr_assert_geq(stage->pid, 0);
    if (stage->pid == 0) {
        close(gate[1]);
        be_stage(stage, gate[0]);
    }
    close(gate[0]);
    stage->gate = gate[1];
}

static void let_go(const struct fake_run *run, struct fake_stage *stage)
{
    const char *endpoint = qp_control_endpoint(run->control);
    cr_assert_eq(write(stage->gate, endpoint, strlen(endpoint)), (ssize_t)strlen(endpoint));
}

static void reap(struct fake_stage *stage)
{
    int status;
    if (stage->ended || waitpid(stage->pid, &status, WNOHANG) != stage->pid)
        return;
    stage->ended = true;
    stage->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void fake_replace(struct fake_run *run, int victim, int spare)
{
    struct fake_stage *old = &run->stages[victim];
    kill(old->pid, SIGKILL);
    while (!old->ended)
        reap(old);
    old->spare = true; /* it is the new one's name from now on */
    run->stages[spare].spare = false;
    run->replaced = true;
    let_go(run, &run->stages[spare]);
}

/* ---- what the runner says ---- */

static char *edge_name(const struct fake_run *run, int from, int to)
{
    return qp_format("%s->%s", run->stages[from].name, run->stages[to].name);
}

static json_t *input_of(const struct fake_run *run, int index, int from, int input)
{
    const struct fake_stage *producer = &run->stages[from];
    const char *port = producer->desc->outputs[0].name;
    qp_auto_free char *edge = edge_name(run, from, index);
    return json_pack("{s:s, s:s, s:[{s:s, s:i, s:O, s:O}]}", "port", run->stages[index].desc->inputs[input].name,
                     "edge", edge, "from", "instance", producer->name, "replica", 0, "endpoint",
                     json_object_get(json_object_get(producer->hello, "endpoints"), port), "host",
                     json_object_get(producer->hello, "host"));
}

static json_t *inputs_of(const struct fake_run *run, int index)
{
    const struct fake_stage *stage = &run->stages[index];
    json_t *inputs = json_array();
    if (stage->from >= 0)
        json_array_append_new(inputs, input_of(run, index, stage->from, 0));
    if (stage->back > 0) {
        json_t *back = input_of(run, index, stage->back, 1);
        json_object_set_new(back, "delay", json_integer(1));
        json_array_append_new(inputs, back);
    }
    return inputs;
}

static json_t *outputs_of(const struct fake_run *run, int index)
{
    json_t *outputs = json_array(), *edges = json_array();
    for (int i = 0; i < run->count; i++)
        if ((run->stages[i].from == index || (index > 0 && run->stages[i].back == index)) && !run->stages[i].spare) {
            qp_auto_free char *edge = edge_name(run, index, i);
            json_array_append_new(edges, json_pack("{s:s, s:i}", "edge", edge, "consumers", 1));
        }
    const struct qp_port *ports = run->stages[index].desc->outputs;
    if (ports)
        json_array_append_new(outputs, json_pack("{s:s, s:o}", "port", ports[0].name, "edges", edges));
    else
        json_decref(edges);
    return outputs;
}

static void configure(struct fake_run *run, int index, const char *folder)
{
    struct qp_error err = {0};
    const struct fake_stage *stage = &run->stages[index];
    qp_auto_free char *scratch = qp_format("%s/%s.scratch", folder, stage->name);
    qp_auto_json json_t *config =
        json_pack("{s:s, s:o, s:[], s:{}, s:o, s:o, s:s, s:[s], s:i, s:I, s:I, s:[]}", "run", run->id, "params",
                  stage->params ? json_loads(stage->params, 0, NULL) : json_object(), "wants", "context", "inputs",
                  inputs_of(run, index), "outputs", outputs_of(run, index), "scratch", scratch, "roots", folder,
                  "threads", 1, "memory", (json_int_t)stage->memory, "blocks", (json_int_t)run->blocks, "drops");
    cr_assert_not_null(config);
    cr_assert_eq(qp_control_send(run->control, stage->name, 0, "config", config, &err), 0, "%s", err.message);
}

static void tell(struct fake_run *run, const struct fake_stage *stage, const char *kind)
{
    struct qp_error ignored;
    qp_control_send(run->control, stage->name, 0, kind, NULL, &ignored); /* it may be gone: as well */
}

/* ---- what stages say ---- */

static void keep(json_t **where, json_t *body)
{
    json_decref(*where);
    *where = json_incref(body);
}

static void note_failure(struct fake_run *run, struct fake_stage *stage, json_t *body)
{
    keep(&stage->failed, body);
    for (int i = 0; i < run->count; i++)
        if (&run->stages[i] != stage && !run->stages[i].ended)
            tell(run, &run->stages[i], "stop");
}

static void note(struct fake_run *run, struct fake_stage *stage, const struct qp_control_message *message)
{
    const char *kind = message->kind;
    if (strcmp(kind, "hello") == 0) {
        keep(&stage->hello, message->body);
    } else if (strcmp(kind, "done") == 0) {
        keep(&stage->done, message->body);
        tell(run, stage, "bye");
    } else if (strcmp(kind, "failed") == 0) {
        note_failure(run, stage, message->body);
    } else if (strcmp(kind, "report") == 0) {
        json_object_set(stage->report, json_string_value(json_object_get(message->body, "key")),
                        json_object_get(message->body, "value"));
    } else if (strcmp(kind, "progress") == 0) {
        stage->progress = json_integer_value(json_object_get(message->body, "done"));
    }
    stage->warnings += strcmp(kind, "warning") == 0;
    stage->heartbeats += strcmp(kind, "heartbeat") == 0;
    stage->ready += strcmp(kind, "ready") == 0;
}

/* A round is bounded, so that stages that talk without pause cannot keep the hook from its step. Returns how many
 * messages it took. */
static int listen_to_stages(struct fake_run *run)
{
    struct qp_control_message message;
    struct qp_error err = {0};
    int taken = 0;
    for (; taken < 32 && qp_control_receive(run->control, 10, &message, &err) == 1; taken++) {
        for (int i = 0; i < run->count; i++)
            if (!run->stages[i].spare && strcmp(run->stages[i].name, message.instance) == 0)
                note(run, &run->stages[i], &message);
        json_decref(message.body);
    }
    cr_assert_eq(err.code, 0, "%s", err.message);
    return taken;
}

/* A stage is configured when it and all others have said hello: endpoints are known then. */
static void configure_new(struct fake_run *run, const char *folder)
{
    for (int i = 0; i < run->count; i++)
        if (!run->stages[i].spare && !run->stages[i].hello)
            return;
    for (int i = 0; i < run->count; i++)
        if (!run->stages[i].spare && !run->stages[i].greeted) {
            run->stages[i].greeted = true;
            configure(run, i, folder);
        }
}

static bool all_ended(const struct fake_run *run)
{
    for (int i = 0; i < run->count; i++)
        if (!run->stages[i].spare && !run->stages[i].ended)
            return false;
    return true;
}

static void open_run(struct fake_run *run, const char *folder)
{
    struct qp_error err = {0};
    static int number;
    snprintf(run->id, sizeof run->id, "fake%ld%c", (long)getpid(), 'a' + number++);
    for (int i = 0; i < run->count; i++) {
        run->stages[i].report = json_object();
        start_process(&run->stages[i]);
    }
    qp_auto_free char *endpoint = run->tcp ? qp_format("tcp://127.0.0.1:0") : qp_format("ipc://%s/control", folder);
    cr_assert_eq(qp_control_open(endpoint, &run->control, &err), 0, "%s", err.message);
    for (int i = 0; i < run->count; i++)
        if (!run->stages[i].spare)
            let_go(run, &run->stages[i]);
}

void fake_run(struct fake_run *run, const char *folder)
{
    open_run(run, folder);
    time_t until = time(NULL) + PATIENCE_SECONDS;
    while (!all_ended(run) && !run->timed_out) {
        listen_to_stages(run);
        configure_new(run, folder);
        if (run->hook)
            run->hook(run);
        for (int i = 0; i < run->count; i++)
            reap(&run->stages[i]);
        run->timed_out = time(NULL) > until;
    }
    while (listen_to_stages(run) > 0)
        continue;
    for (int i = 0; i < run->count; i++) {
        close(run->stages[i].gate);
        if (!run->stages[i].ended && run->timed_out)
            kill(run->stages[i].pid, SIGKILL);
    }
    qp_control_close(run->control);
}

void fake_drop(struct fake_run *run)
{
    for (int i = 0; i < run->count; i++) {
        json_decref(run->stages[i].hello);
        json_decref(run->stages[i].done);
        json_decref(run->stages[i].failed);
        json_decref(run->stages[i].report);
    }
}

long fake_edge(const struct fake_run *run, int stage, int from, int to, const char *key)
{
    qp_auto_free char *name = edge_name(run, from, to);
    const json_t *edges = json_object_get(run->stages[stage].done, "edges");
    for (size_t i = 0; i < json_array_size(edges); i++) {
        const json_t *edge = json_array_get(edges, i);
        if (strcmp(json_string_value(json_object_get(edge, "edge")), name) == 0)
            return (long)json_integer_value(json_object_get(edge, key));
    }
    return -1;
}
