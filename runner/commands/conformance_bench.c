#include "runner/commands/conformance_bench.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/block.h"
#include "libstage/wire/socket.h"
#include "runner/execution/run.h"
#include "runner/machine.h"
#include "runner/pipeline/pipeline.h"
#include "runner/process.h"

#define EDGE_IN "feeder->subject"
#define EDGE_OUT "subject->eater"

static const json_t *ports(const struct qp_bench *b, const char *side)
{
    return json_object_get(b->subject->descriptor, side);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* ---- the process ---- */

static int start(struct qp_bench *b, struct qp_error *err)
{
    char *const *command = b->subject->command;
    const char *tail[] = {"--control", qp_control_endpoint(b->control), "--instance", "subject", "--replica", "0",
                          NULL};
    size_t count = 0;
    while (command[count])
        count++;
    qp_auto_free char **argv = calloc(count + sizeof tail / sizeof *tail, sizeof *argv);
    if (!argv)
        return qp_fail_memory(err, count, command[0]);
    memcpy(argv, command, count * sizeof *argv);
    memcpy(argv + count, tail, sizeof tail);
    qp_auto_free char *log = qp_format("%s/log", b->folder);
    b->log = log ? open(log, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (b->log < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot create a log", b->folder);
    return qp_process_start(argv, NULL, &(struct qp_stdio){-1, b->log, b->log}, &b->pid, err);
}

static void note_message(struct qp_bench *b, struct qp_control_message *m)
{
    json_t **kept = strcmp(m->kind, "hello") == 0    ? &b->hello
                    : strcmp(m->kind, "done") == 0   ? &b->done
                    : strcmp(m->kind, "failed") == 0 ? &b->failed
                                                     : NULL;
    if (kept && !*kept)
        *kept = json_incref(m->body);
    b->ready_early |= strcmp(m->kind, "ready") == 0 && b->out_count + b->in_count == 0;
    b->ready |= strcmp(m->kind, "ready") == 0;
    b->heartbeats += strcmp(m->kind, "heartbeat") == 0;
    json_decref(m->body);
}

static void reap(struct qp_bench *b)
{
    int status;
    if (b->ended || waitpid(b->pid, &status, WNOHANG) != b->pid)
        return;
    b->ended = true;
    b->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- units ---- */

static void let_go(struct qp_taken *taken)
{
    qp_unit_free(taken->unit);
    qp_receipt_release(taken->receipt);
    taken->unit = NULL;
    taken->receipt = NULL;
}

void qp_bench_release(struct qp_bench *b)
{
    for (size_t i = 0; i < b->taken_count; i++)
        let_go(&b->taken[i]);
}

static void take_units(struct qp_bench *b, size_t i)
{
    while (qp_in_next(b->ins[i])) {
        struct qp_taken taken = {0};
        taken.unit = qp_in_take(b->ins[i], &taken.receipt);
        taken.kind = taken.unit->kind;
        taken.seq = taken.unit->seq;
        qp_in_processed(b->ins[i], taken.receipt);
        if (i > 0 || !b->keeps || b->taken_count == QP_BENCH_UNITS)
            let_go(&taken);
        if (i == 0 && b->taken_count < QP_BENCH_UNITS)
            b->taken[b->taken_count++] = taken;
    }
}

static void poll_once(struct qp_bench *b)
{
    struct qp_control_message message;
    struct qp_error err = {0};
    for (int wait = 5; qp_control_receive(b->control, wait, &message, &err) > 0; wait = 0)
        note_message(b, &message);
    for (size_t i = 0; i < b->out_count; i++)
        if (qp_out_poll(b->outs[i], &err) < 0 && b->edge_error.code == 0)
            b->edge_error = err;
    for (size_t i = 0; i < b->in_count && b->units_error.code == 0; i++) {
        if (!b->ins[i])
            continue;
        if (qp_in_poll(b->ins[i], &err) < 0)
            b->units_error = err;
        else
            take_units(b, i);
    }
    reap(b);
}

bool qp_bench_until(struct qp_bench *b, bool (*is)(const struct qp_bench *))
{
    double end = qp_now() + b->subject->timeout, over = 0;
    while (!is(b) && qp_now() < end) {
        if (b->ended && over == 0)
            over = qp_now() + 0.5; /* its last messages */
        if (over > 0 && qp_now() > over)
            break;
        poll_once(b);
    }
    return is(b);
}

void qp_bench_turn(struct qp_bench *b, double seconds)
{
    for (double end = qp_now() + seconds; qp_now() < end && !b->ended;)
        poll_once(b);
}

/* ---- opening and closing ---- */

static bool has_greeted(const struct qp_bench *b)
{
    return b->hello != NULL;
}

static int open_all(struct qp_bench *b, struct qp_error *err)
{
    qp_auto_free char *endpoint = qp_format("ipc://%s/control", b->folder);
    int r = qp_make_folders(b->folder, err);
    if (r == 0)
        r = endpoint ? qp_control_open(endpoint, &b->control, err) : qp_fail_memory(err, 0, "an endpoint");
    if (r == 0)
        r = qp_context_new(&b->context, err);
    if (r == 0)
        r = qp_references_new(b->id, (const char *const[]){"/", NULL}, &b->references, err);
    return r < 0 ? r : start(b, err);
}

int qp_bench_open(struct qp_subject *subject, struct qp_bench **out, struct qp_error *err)
{
    struct qp_bench *b = *out = calloc(1, sizeof *b);
    if (!b)
        return qp_fail_memory(err, sizeof *b, "a check");
    b->subject = subject;
    b->keeps = true;
    b->log = -1;
    b->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(b->id, sizeof b->id, "check%ld.%d", (long)getpid(), subject->processes);
    snprintf(b->folder, sizeof b->folder, "%s/%d", subject->folder, subject->processes++);
    int r = open_all(b, err);
    if (r == 0 && !qp_bench_until(b, has_greeted))
        return b->ended ? qp_fail(err, QP_ERR_STAGE, "hello: it ended with exit code %d before its hello", b->exit_code)
                        : qp_fail(err, QP_ERR_STAGE, "hello: none came within %g seconds", subject->timeout);
    return r;
}

void qp_bench_close(struct qp_bench *b)
{
    if (!b)
        return;
    if (b->pid > 0 && !b->ended) {
        kill(-b->pid, SIGKILL);
        kill(b->pid, SIGKILL);
        waitpid(b->pid, NULL, 0);
    }
    qp_bench_release(b);
    for (size_t i = 0; i < b->out_count; i++)
        qp_out_close_socket(b->outs[i]);
    for (size_t i = 0; i < b->in_count; i++)
        if (b->ins[i])
            qp_in_close_socket(b->ins[i]);
    if (b->context)
        zmq_ctx_term(b->context);
    for (size_t i = 0; i < b->out_count; i++)
        qp_out_free(b->outs[i]);
    for (size_t i = 0; i < b->in_count; i++)
        if (b->ins[i])
            qp_in_free(b->ins[i]);
    qp_references_free(b->references);
    qp_control_close(b->control);
    qp_remove_shared_memory(b->id); /* a process that was killed has left its own */
    qp_cleanup_close(&b->log);
    qp_cleanup_close(&b->wake);
    json_decref(b->hello);
    json_decref(b->done);
    json_decref(b->failed);
    free(b);
}

/* ---- edges ---- */

static int bind_producer(struct qp_bench *b, struct qp_error *err)
{
    char host[QP_HOST_SIZE];
    size_t i = b->out_count;
    qp_host_identity(host, sizeof host);
    snprintf(b->endpoint[i], sizeof b->endpoint[i], "ipc://%s/feeder.%zu", b->folder, i);
    int r = qp_out_open(b->context, b->endpoint[i], &b->outs[i], err);
    if (r < 0)
        return r;
    b->out_count++;
    r = qp_out_configure(b->outs[i], b->id, host, err);
    return r < 0 ? r : qp_out_add_edge(b->outs[i], EDGE_IN, err);
}

static int dial_output(struct qp_bench *b, size_t i, struct qp_error *err)
{
    char host[QP_HOST_SIZE], edge[80];
    const char *port = text_of(json_array_get(ports(b, "outputs"), i), "name");
    const char *endpoint = text_of(json_object_get(b->hello, "endpoints"), port);
    if (!endpoint)
        return qp_fail(err, QP_ERR_STAGE, "hello: it has no endpoint for the output port `%s`", port);
    qp_host_identity(host, sizeof host);
    snprintf(edge, sizeof edge, EDGE_OUT "%zu", i);
    struct qp_in_config config = {.run = b->id,
                                  .edge = edge,
                                  .instance = "eater",
                                  .host = host,
                                  .endpoint = endpoint,
                                  .local = strcmp(host, text_of(b->hello, "host")) == 0,
                                  .window_units = 3,
                                  .window_bytes = (int64_t)1 << 30,
                                  .references = b->references,
                                  .wake = b->wake};
    return qp_in_open(b->context, &config, &b->ins[i], err);
}

int qp_bench_connect(struct qp_bench *b, struct qp_error *err)
{
    int r = 0;
    size_t i;
    const json_t *port;
    json_array_foreach(ports(b, "inputs"), i, port) {
        if (r == 0 && !json_is_true(json_object_get(port, "optional")) && b->out_count < QP_BENCH_PORTS)
            r = bind_producer(b, err);
    }
    for (i = 0; r == 0 && i < json_array_size(ports(b, "outputs")) && i < QP_BENCH_PORTS; i++) {
        r = dial_output(b, i, err);
        b->in_count += r == 0;
    }
    return r;
}

int qp_bench_dial(struct qp_bench *b, struct qp_error *err)
{
    qp_in_close_socket(b->ins[0]); /* before anything is let go, which would be acknowledged */
    qp_bench_release(b);
    b->taken_count = 0;
    qp_in_free(b->ins[0]);
    b->ins[0] = NULL;
    qp_bench_turn(b, 0.2); /* as long as a process takes to start again */
    return dial_output(b, 0, err);
}

/* ---- config ---- */

static json_t *inputs_of(const struct qp_bench *b)
{
    char host[QP_HOST_SIZE];
    json_t *inputs = json_array();
    size_t i, n = 0;
    const json_t *port;
    qp_host_identity(host, sizeof host);
    json_array_foreach(ports(b, "inputs"), i, port) {
        if (!json_is_true(json_object_get(port, "optional")) && n < b->out_count)
            json_array_append_new(inputs,
                                  json_pack("{s:s, s:s, s:[{s:s, s:i, s:s, s:s}]}", "port", text_of(port, "name"),
                                            "edge", EDGE_IN, "from", "instance", "feeder", "replica", 0, "endpoint",
                                            qp_out_endpoint(b->outs[n++]), "host", host));
    }
    return inputs;
}

static json_t *outputs_of(const struct qp_bench *b)
{
    json_t *outputs = json_array();
    for (size_t i = 0; i < b->in_count; i++)
        json_array_append_new(outputs, json_pack("{s:s, s:[{s:o, s:i}]}", "port",
                                                 text_of(json_array_get(ports(b, "outputs"), i), "name"), "edges",
                                                 "edge", json_sprintf(EDGE_OUT "%zu", i), "consumers", 1));
    return outputs;
}

static json_t *context_of(const struct qp_bench *b)
{
    const struct qp_subject *s = b->subject;
    json_t *data = s->text && text_of(s->descriptor, "data")
                       ? json_pack("{s:s, s:i, s:i}", "text", s->text, "samples", 2, "length", 32)
                       : json_null();
    return json_pack("{s:s, s:O, s:o, s:o, s:o}", "model", s->model, "scheme", s->scheme->source, "output",
                     json_sprintf("%s/output", b->folder), "destination", json_sprintf("%s/destination", b->folder),
                     "data", data);
}

int qp_bench_configure(struct qp_bench *b, struct qp_error *err)
{
    qp_auto_free char *root =
        qp_is_folder(b->subject->model) ? realpath(b->subject->model, NULL) : qp_folder_of(b->subject->model);
    qp_auto_json json_t *config = json_pack(
        "{s:s, s:o, s:[], s:o, s:o, s:o, s:o, s:[s?], s:i, s:i, s:i, s:[]}", "run", b->id, "params",
        qp_params_of(&(struct qp_instance){.descriptor = b->subject->descriptor}), "wants", "context", context_of(b),
        "inputs", inputs_of(b), "outputs", outputs_of(b), "scratch", json_sprintf("%s/scratch", b->folder), "roots",
        root, "threads", 1, "memory", 0, "blocks", 0, "drops");
    return qp_control_send(b->control, "subject", 0, "config", config, err);
}

/* ---- what is fed ---- */

/* Statistics of standard inputs, for whoever needs some. */
static int put_statistic(struct qp_unit *unit, const char *name, int64_t count, const float *v, struct qp_error *err)
{
    struct qp_tensor *t;
    int r = qp_tensor_new(name, QP_F32, 1, &count, &t, err);
    if (r < 0)
        return r;
    memcpy(t->data, v, t->bytes);
    return qp_unit_put(unit, t, err);
}

static int put_statistics(const struct qp_arch *arch, struct qp_unit *unit, int64_t layer, struct qp_error *err)
{
    static const char *const names[] = {"absmax", "absmean", "max", "min"};
    static const float values[] = {3, 0.8f, 3, -3};
    const struct qp_layer_type *type = qp_layer_type(arch, layer);
    int r = 0;
    for (int s = 0; r == 0 && s < type->site_count; s++) {
        char what[80], name[256];
        int64_t n = type->sites[s].in, count = qp_triangle_row(n, n);
        qp_auto_free float *v = calloc((size_t)count, sizeof *v);
        if (!v)
            return qp_fail_memory(err, (unsigned long long)count, "statistics");
        for (int64_t i = 0; i < n; i++)
            v[qp_triangle_row(n, i)] = 64;
        snprintf(what, sizeof what, "%s.hessian", type->sites[s].name);
        r = put_statistic(unit, qp_layer_name(arch, layer, what, name, sizeof name), count, v, err);
        for (int k = 0; r == 0 && k < 4; k++) {
            for (int64_t i = 0; i < n; i++)
                v[i] = values[k];
            snprintf(what, sizeof what, "%s.%s", type->sites[s].name, names[k]);
            r = put_statistic(unit, qp_layer_name(arch, layer, what, name, sizeof name), n, v, err);
        }
    }
    return r;
}

static bool reads_statistics(const struct qp_bench *b)
{
    return json_array_size(ports(b, "needs")) + json_array_size(ports(b, "uses")) > 0;
}

static int make_unit(struct qp_bench *b, int64_t seq, struct qp_unit **unit, struct qp_error *err)
{
    struct qp_checkpoint *c = b->subject->checkpoint;
    int64_t blocks = qp_arch_blocks(&c->arch);
    if (seq == 0)
        return qp_checkpoint_model(c, b->subject->scheme, unit, err);
    if (seq <= blocks) {
        int r = qp_checkpoint_block(c, seq - 1, NULL, unit, err);
        return r == 0 && seq > 1 && seq < blocks && reads_statistics(b) ? put_statistics(&c->arch, *unit, seq - 2, err)
                                                                        : r;
    }
    int r = qp_unit_new(QP_UNIT_END, seq, unit, err);
    if (r == 0)
        json_object_set_new((*unit)->attrs, "blocks", json_integer((json_int_t)blocks));
    return r;
}

int qp_bench_feed(struct qp_bench *b, struct qp_error *err)
{
    int r = 0;
    int64_t count = qp_arch_blocks(&b->subject->checkpoint->arch) + 2;
    for (size_t i = 0; i < b->out_count; i++)
        for (int64_t seq = 0; r == 0 && seq < count; seq++) {
            struct qp_unit *unit = NULL;
            r = make_unit(b, seq, &unit, err);
            if (r == 0)
                r = qp_out_push(b->outs[i], unit, NULL, err);
        }
    b->fed = b->out_count > 0 ? count : 0;
    return r;
}

int64_t qp_bench_count(const struct qp_bench *b, const char *key)
{
    qp_auto_json json_t *records = json_array();
    if (b->out_count > 0)
        qp_out_statistics(b->outs[0], records);
    return json_integer_value(json_object_get(json_array_get(records, 0), key));
}

const char *qp_bench_words(const struct qp_bench *b, char *text, size_t size)
{
    return qp_tail(b->log, text, size);
}
