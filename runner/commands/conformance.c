#include "runner/commands/conformance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "runner/commands/conformance_bench.h"
#include "runner/pipeline/descriptor.h"
#include "runner/pipeline/schemas.h"

#define PATIENCE 1.5 /* seconds in which something must not happen */

const struct qp_option qp_conformance_options[] = {
    {"stage", "COMMAND", "play runner and peers against a stage's executable, instead of checking a pipeline"},
    {"text", "FILE", "of --stage: the text that stages with `data` get"},
    {0}};

/* ---- conditions ---- */

static bool is_ready(const struct qp_bench *b)
{
    return b->ready || b->failed;
}

static bool is_done(const struct qp_bench *b)
{
    return b->done || b->failed || b->units_error.code;
}

static bool has_failed(const struct qp_bench *b)
{
    return b->failed != NULL;
}

static bool has_ended(const struct qp_bench *b)
{
    return b->ended;
}

static bool has_heartbeat(const struct qp_bench *b)
{
    return b->heartbeats > 0;
}

static bool has_two_units(const struct qp_bench *b)
{
    return b->taken_count >= 2 || is_done(b);
}

static bool has_end(const struct qp_bench *b)
{
    return (b->taken_count > 0 && b->taken[b->taken_count - 1].kind == QP_UNIT_END) || is_done(b);
}

static bool has_sent_one(const struct qp_bench *b)
{
    return qp_bench_count(b, "sent") > 0 || b->failed || b->edge_error.code;
}

/* ---- breaking ---- */

/* Describes a rule that is broken, with what the stage says of it. */
static int broken(const struct qp_bench *b, struct qp_error *err, const char *what)
{
    char tail[300];
    const char *why = b->failed ? json_string_value(json_object_get(b->failed, "message")) : NULL;
    const char *words = why ? why : qp_bench_words(b, tail, sizeof tail);
    return qp_fail(err, QP_ERR_STAGE, "%s%s%.400s", what, *words ? "; it says: " : "", words);
}

/* What the peers refused of it. */
static int check_peers(const struct qp_bench *b, struct qp_error *err)
{
    const char *why = "";
    if (b->edge_error.code)
        return qp_fail(err, QP_ERR_STAGE, "edge-messages: %s", b->edge_error.message);
    for (size_t i = 0; i < b->out_count; i++)
        if (qp_out_rejected(b->outs[i], &why) > 0)
            return qp_fail(err, QP_ERR_STAGE, "edge-messages: %s", why);
    if (b->units_error.code)
        return qp_fail(err, QP_ERR_STAGE, "units: %s", b->units_error.message);
    return 0;
}

static int begin(struct qp_subject *s, struct qp_bench **b, struct qp_error *err)
{
    int r = qp_bench_open(s, b, err);
    if (r == 0 && (*b)->failed)
        r = broken(*b, err, "hello: it failed instead");
    if (r == 0 && qp_control_body_check("hello", (*b)->hello, err) < 0)
        r = qp_fail(err, QP_ERR_STAGE, "hello: %s", err->message);
    if (r == 0 && (*b)->ready_early)
        r = qp_fail(err, QP_ERR_STAGE, "ready: it came before the config");
    if (r == 0)
        r = qp_bench_connect(*b, err);
    return r == 0 ? qp_bench_configure(*b, err) : r;
}

static int begin_well(struct qp_subject *s, struct qp_bench **b, struct qp_error *err)
{
    int r = begin(s, b, err);
    if (r == 0 && (!qp_bench_until(*b, is_ready) || (*b)->failed))
        r = broken(*b, err, "ready: it did not come after a config with the defaults of all parameters");
    return r;
}

/* From here on the consumers acknowledge what they have and what comes. */
static void let_all_go(struct qp_bench *b)
{
    b->keeps = false;
    qp_bench_release(b);
}

/* The same, with consumers that acknowledge at once. */
static int begin_eating(struct qp_subject *s, struct qp_bench **b, struct qp_error *err)
{
    int r = begin_well(s, b, err);
    if (r == 0)
        let_all_go(*b);
    return r;
}

/* Until it is done, goes, and is gone. */
static int finish(struct qp_bench *b, struct qp_error *err)
{
    bool done = qp_bench_until(b, is_done) && b->done;
    int r = check_peers(b, err);
    if (r < 0)
        return r;
    if (!done)
        return broken(b, err,
                      has_end(b) ? "done: it did not come when all was acknowledged"
                                 : "passes-on: not all units came, nor done");
    r = qp_control_send(b->control, "subject", 0, "bye", NULL, err);
    if (r == 0 && !qp_bench_until(b, has_ended))
        return qp_fail(err, QP_ERR_STAGE, "bye: it did not exit");
    if (r == 0 && b->exit_code != 0)
        return qp_fail(err, QP_ERR_STAGE, "bye: it exited with %d; expected 0", b->exit_code);
    return r;
}

/* ---- rules ---- */

static int check_order(const struct qp_bench *b, struct qp_error *err)
{
    size_t n = b->taken_count;
    if (b->in_count == 0)
        return 0;
    if (n < 2 || b->taken[0].kind != QP_UNIT_MODEL || b->taken[n - 1].kind != QP_UNIT_END)
        return qp_fail(err, QP_ERR_STAGE, "order: found %zu units, expected model, blocks and end", n);
    for (size_t i = 1; i < n; i++)
        if (b->taken[i].seq <= b->taken[i - 1].seq)
            return qp_fail(err, QP_ERR_STAGE, "order: unit %lld came after unit %lld", (long long)b->taken[i].seq,
                           (long long)b->taken[i - 1].seq);
    if (b->out_count > 0 && (int64_t)n != b->fed)
        return qp_fail(err, QP_ERR_STAGE, "passes-on: %zu units came, %lld were sent to it", n, (long long)b->fed);
    return 0;
}

static int check_record(const struct qp_bench *b, struct qp_error *err)
{
    int64_t received = 0, sent = 0;
    size_t i;
    const json_t *edge;
    if (qp_control_body_check("done", b->done, err) < 0)
        return qp_fail(err, QP_ERR_STAGE, "done: %s", err->message);
    json_array_foreach(json_object_get(b->done, "edges"), i, edge) {
        received += json_integer_value(json_object_get(edge, "received"));
        sent += json_integer_value(json_object_get(edge, "sent"));
    }
    if (received != b->fed * (int64_t)b->out_count ||
        sent != (int64_t)(b->taken_count * (b->in_count > 0 ? b->in_count : 1)))
        return qp_fail(err, QP_ERR_STAGE, "done: it says %lld received and %lld sent; there were %lld and %zu",
                       (long long)received, (long long)sent, (long long)(b->fed * (int64_t)b->out_count),
                       b->taken_count);
    return 0;
}

/* A whole run, in which the consumers take their time to acknowledge. */
static int run_whole(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    int r = begin_well(s, bench, err);
    struct qp_bench *b = *bench;
    bool passes = r == 0 && b->out_count > 0 && b->in_count > 0 &&
                  !json_is_true(json_object_get(s->descriptor, "copies")) && b->out_count == 1;
    if (r == 0)
        r = qp_bench_feed(b, err);
    if (r == 0 && b->out_count > 0 && !qp_bench_until(b, has_sent_one))
        r = check_peers(b, err) < 0 ? err->code : broken(b, err, "credit: it never granted any");
    if (r == 0 && passes && qp_bench_until(b, has_two_units) && qp_bench_count(b, "acknowledged") > 0)
        return qp_fail(err, QP_ERR_STAGE, "ack: it acknowledged a unit before its own consumers had");
    if (r == 0 && b->in_count > 0)
        for (size_t before = 0; qp_bench_until(b, has_two_units) && !has_end(b) && b->taken_count != before;) {
            before = b->taken_count;
            qp_bench_release(b);
            qp_bench_turn(b, 0.05);
        }
    if (r == 0 && b->in_count > 0 && !b->failed) {
        for (int i = 0; i < 1000 && !has_end(b); i++) {
            qp_bench_release(b);
            qp_bench_turn(b, s->timeout / 1000);
        }
        if (has_end(b) && !b->done)
            qp_bench_turn(b, PATIENCE);
        if (b->done && b->taken_count > 0 && b->taken[b->taken_count - 1].unit)
            return qp_fail(err, QP_ERR_STAGE, "done: it came before the end unit was acknowledged");
    }
    if (r == 0) {
        let_all_go(b);
        if (!qp_bench_until(b, has_heartbeat))
            return qp_fail(err, QP_ERR_STAGE, "heartbeat: none came");
        r = finish(b, err);
    }
    if (r == 0)
        r = check_order(b, err);
    if (r == 0 && qp_bench_count(b, "acknowledged") != b->fed)
        r = qp_fail(err, QP_ERR_STAGE, "ack: %lld of %lld units were acknowledged",
                    (long long)qp_bench_count(b, "acknowledged"), (long long)b->fed);
    return r == 0 ? check_record(b, err) : r;
}

/* The consumer comes anew when it has two units and has acknowledged none. */
static int replay(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    int r = begin_well(s, bench, err);
    struct qp_bench *b = *bench;
    if (r < 0 || b->in_count == 0)
        return r;
    r = qp_bench_feed(b, err);
    if (r == 0 && qp_bench_until(b, has_two_units) && !b->failed && b->taken_count >= 2) {
        int64_t first = b->taken[0].seq;
        bool again = false;
        for (int attempt = 0; r == 0 && !again && attempt < 3 && !b->units_error.code; attempt++) {
            r = qp_bench_dial(b, err);
            again = r == 0 && qp_bench_until(b, has_two_units) && b->taken_count > 0 && b->taken[0].seq == first;
        }
        if (b->units_error.code)
            return qp_fail(err, QP_ERR_STAGE, "replay: %s", b->units_error.message);
        if (r == 0 && !again)
            return broken(b, err, "replay: after a new hello the units that were not acknowledged did not come again");
    }
    let_all_go(b);
    return r == 0 ? finish(b, err) : r;
}

/* Sends one frame to an output port as somebody else. */
static int send_stranger(const struct qp_bench *b, const char *identity, const void *data, size_t size,
                         struct qp_error *err)
{
    void *socket = NULL;
    const json_t *port = json_array_get(json_object_get(b->subject->descriptor, "outputs"), 0);
    const char *name = json_string_value(json_object_get(port, "name"));
    int r = qp_socket_new(b->context, ZMQ_DEALER, identity, &socket, err);
    if (r == 0)
        r = qp_socket_dial(socket, json_string_value(json_object_get(json_object_get(b->hello, "endpoints"), name)),
                           err);
    if (r == 0)
        r = qp_frame_send(socket, NULL, data, size, false, err);
    qp_socket_close(socket, "");
    return r;
}

static int send_wrong_hello(const struct qp_bench *b, struct qp_error *err)
{
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    qp_auto_json json_t *body = json_pack("{s:i, s:s, s:s, s:s, s:i, s:s}", "protocol", 1, "run", "another", "edge",
                                          "subject->eater0", "instance", "eater", "replica", 0, "host", "h");
    int r = qp_message_pack("hello", body, &buffer, err);
    return r < 0 ? r : send_stranger(b, "stranger/0", buffer.data, buffer.size, err);
}

/* What it must not take from a consumer is dropped, and the run goes on. */
static int strangers(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    int r = begin_eating(s, bench, err);
    struct qp_bench *b = *bench;
    if (r < 0 || b->in_count == 0)
        return r;
    r = send_stranger(b, "garbage/0", "\xc1garbage", 8, err);
    if (r == 0)
        r = send_wrong_hello(b, err);
    qp_bench_turn(b, 0.3);
    if (r == 0)
        r = qp_bench_feed(b, err);
    if (r == 0 && (!qp_bench_until(b, is_done) || !b->done))
        return broken(b, err, "strangers: garbage and a hello of another run at its output kept it from its work");
    return r < 0 ? r : finish(b, err);
}

/* Sends a frame on the first input edge that no producer may send; it has to fail. */
static int refuses(struct qp_subject *s, struct qp_bench **bench, const void *data, size_t size, const char *rule,
                   struct qp_error *err)
{
    int r = begin_eating(s, bench, err);
    struct qp_bench *b = *bench;
    if (r < 0 || b->out_count == 0)
        return r;
    r = qp_bench_feed(b, err);
    if (r == 0 && !qp_bench_until(b, has_sent_one))
        return check_peers(b, err) < 0 ? err->code : broken(b, err, "credit: it never granted any");
    if (r == 0)
        r = qp_frame_send(qp_out_socket(b->outs[0]), "feeder->subject/0", data, size, false, err);
    if (r == 0 && !qp_bench_until(b, has_failed))
        return qp_fail(err, QP_ERR_STAGE, "%s: it took it, and went on", rule);
    return r;
}

static int refuses_unit(struct qp_subject *s, struct qp_bench **bench, json_t *body, const char *rule,
                        struct qp_error *err)
{
    qp_auto_json json_t *owned = body;
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    int r = qp_message_pack("unit", owned, &buffer, err);
    return r < 0 ? r : refuses(s, bench, buffer.data, buffer.size, rule, err);
}

static int garbage(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    return refuses(s, bench, "\xc1garbage", 8, "garbage: bytes that are no message", err);
}

static int lost_unit(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    return refuses_unit(
        s, bench,
        json_pack("{s:s, s:i, s:i, s:{}, s:[]}", "kind", "block", "seq", 900, "units", 900, "attrs", "tensors"),
        "lost-unit: a unit whose count says that others are lost", err);
}

static int unknown_key(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    return refuses_unit(s, bench,
                        json_pack("{s:s, s:i, s:i, s:{}, s:[], s:i}", "kind", "block", "seq", 900, "units", 1, "attrs",
                                  "tensors", "surplus", 1),
                        "unknown-key: a unit with a key that the protocol has not", err);
}

static int stop(struct qp_subject *s, struct qp_bench **bench, struct qp_error *err)
{
    int r = begin_eating(s, bench, err);
    struct qp_bench *b = *bench;
    if (r == 0)
        r = qp_control_send(b->control, "subject", 0, "stop", NULL, err);
    if (r == 0 && !qp_bench_until(b, has_ended))
        return qp_fail(err, QP_ERR_STAGE, "stop: it did not exit");
    if (r == 0 && (b->exit_code != 130 || !b->failed))
        return qp_fail(err, QP_ERR_STAGE, "stop: it exited with %d%s; expected failed, and 130", b->exit_code,
                       b->failed ? "" : " and without failed");
    return r;
}

static const struct {
    const char *name, *rules;
    int (*check)(struct qp_subject *, struct qp_bench **, struct qp_error *);
} parts[] = {{"a whole run", "hello, ready, edge-messages, units, credit, order, passes-on, ack, heartbeat, done, bye",
              run_whole},
             {"a consumer that comes anew", "replay", replay},
             {"messages of strangers", "strangers", strangers},
             {"bytes that are no message", "garbage", garbage},
             {"a unit after lost ones", "lost-unit", lost_unit},
             {"a unit with an unknown key", "unknown-key", unknown_key},
             {"a stop", "stop", stop}};

/* ---- the subcommand ---- */

static int check_all(struct qp_subject *s, struct qp_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < sizeof parts / sizeof *parts; i++) {
        struct qp_bench *b = NULL;
        r = parts[i].check(s, &b, err);
        qp_bench_close(b);
        if (r == 0)
            printf("good: %s (%s)\n", parts[i].name, parts[i].rules);
        fflush(stdout);
    }
    return r;
}

static int open_subject(const struct qp_args *args, struct qp_subject *s, struct qp_error *err)
{
    const char *scheme = qp_arg(args, "scheme");
    qp_auto_json json_t *name = json_string(scheme ? scheme : "int4");
    s->model = qp_arg(args, "model");
    s->text = qp_arg(args, "text");
    if (!s->model)
        return qp_fail(err, QP_ERR_USAGE,
                       "--stage: expected --model as well, a small one, whose blocks the stage gets");
    int r = qp_descriptor_read(s->command, NULL, (int)s->timeout, &s->descriptor, err);
    if (r < 0)
        return qp_fail(err, QP_ERR_STAGE, "describe: %s", err->message);
    r = qp_checkpoint_open(s->model, &s->checkpoint, err);
    if (r == 0)
        r = qp_scheme_parse(name, &s->scheme, err);
    if (r == 0)
        qp_scheme_bind(s->scheme, s->checkpoint->arch.dtype);
    return r;
}

int qp_conformance(const struct qp_args *args, struct qp_error *err)
{
    char folder[] = "/tmp/quantpipe-check-XXXXXX", *words[64], *rest = NULL;
    qp_auto_free char *command = strdup(qp_arg(args, "stage"));
    size_t count = 0;
    long long seconds;
    for (char *word = command ? strtok_r(command, " ", &rest) : NULL; word && count < 63;
         word = strtok_r(NULL, " ", &rest))
        words[count++] = word;
    words[count] = NULL;
    struct qp_subject s = {.command = words};
    int r = count > 0 ? qp_arg_integer(args, "timeout", 1, 100000, 60, &seconds, err)
                      : qp_fail(err, QP_ERR_USAGE, "--stage: expected the command of a stage");
    if (r < 0)
        return r;
    s.timeout = (double)seconds;
    if (!mkdtemp(folder))
        return qp_fail_errno(err, QP_ERR_SPACE, "%s: cannot be made", folder);
    s.folder = folder;
    r = open_subject(args, &s, err);
    if (r == 0)
        r = check_all(&s, err);
    if (r == QP_ERR_STAGE)
        qp_wrap(err, "%s breaks the protocol (libstage/wire/PROTOCOL.md)", words[0]);
    qp_scheme_free(s.scheme);
    qp_checkpoint_close(s.checkpoint);
    json_decref(s.descriptor);
    qp_remove_tree(folder, NULL);
    return r;
}
