/* peer: a stage that speaks the wire by itself, without libstage's lifecycle, and breaks one rule of the protocol. It
 * stands between two stages and hands on what either sends the other, frame by frame, but for what its first argument
 * says. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/include/stage.h"
#include "libstage/wire/control.h"
#include "libstage/wire/control_client.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"

#define AT_BLOCK 3 /* the unit at which it happens */

static const struct qp_port inputs[] = {{.name = "in", .help = "any units"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same units"}, {0}};

static const struct qp_stage_desc desc = {
    .name = "peer",
    .summary = "breaks a rule of the protocol",
    .version = 1,
    .inputs = inputs,
    .outputs = outputs,
};

struct peer {
    const char *name, *does;
    void *context, *control, *in, *out;
    json_t *config;
    char endpoint[256], consumer[256]; /* routing id of the consumer; "": not yet */
    char host[64];
    int64_t units;       /* that it took in */
    int64_t sent;        /* that it handed on */
    int64_t taken;       /* acknowledgements from the consumer */
    int64_t shift, from; /* what it adds to the seq of units from now on, and the first seq that has it */
    json_t *kept;        /* the unit that is to come twice; NULL: none */
    int64_t last;        /* number of the model's last block */
    bool dropping;       /* the bytes of the unit that came last go no further */
    bool ended, done;    /* the end unit has passed; it has sent `done` */
    double heartbeat;    /* when the last one was sent */
};

static bool does(const struct peer *p, const char *what)
{
    return strcmp(p->does, what) == 0;
}

/* Whatever fails here fails the test that looks for another message. */
static void check(int r, const struct qp_error *err)
{
    if (r >= 0)
        return;
    fprintf(stderr, "peer: %s\n", err->message);
    exit(9);
}

/* ---- the control channel ---- */

static void tell_runner(const struct peer *p, const char *kind, json_t *body)
{
    struct qp_error err = {0};
    qp_auto_json json_t *owned = body;
    check(qp_client_send(p->control, kind, owned, &err), &err);
}

static void greet_runner(const struct peer *p)
{
    json_t *hello = json_pack("{s:i, s:s, s:i, s:i, s:s, s:s, s:{s:s}, s:[]}", "protocol",
                              does(p, "control version") ? 2 : 1, "stage", "peer", "version", 1, "pid", (int)getpid(),
                              "host", p->host, "hostname", "h", "endpoints", "out", p->endpoint, "gpus");
    if (does(p, "control hello key"))
        json_object_set_new(hello, "colour", json_string("red"));
    tell_runner(p, "hello", hello);
}

static json_t *edge_record(const struct peer *p, const char *edge, bool producer)
{
    return producer ? json_pack("{s:s, s:s, s:I, s:I, s:i, s:i, s:i}", "edge", edge, "role", "producer", "sent",
                                (json_int_t)p->sent, "acknowledged", (json_int_t)p->taken, "resent", 0, "bytes_inline",
                                0, "bytes_by_reference", 0)
                    : json_pack("{s:s, s:s, s:I, s:i}", "edge", edge, "role", "consumer", "received",
                                (json_int_t)p->units, "duplicates", 0);
}

static const json_t *input_of(const struct peer *p)
{
    return json_array_get(json_object_get(p->config, "inputs"), 0);
}

static const char *edge_in(const struct peer *p)
{
    return json_string_value(json_object_get(input_of(p), "edge"));
}

static const char *edge_out(const struct peer *p)
{
    const json_t *output = json_array_get(json_object_get(p->config, "outputs"), 0);
    return json_string_value(json_object_get(json_array_get(json_object_get(output, "edges"), 0), "edge"));
}

static void tell_done(struct peer *p)
{
    json_t *stage = json_pack("{s:f, s:f, s:f, s:i, s:i, s:I}", "wall_seconds", 1.0, "busy_seconds", 0.0, "cpu_seconds",
                              0.0, "peak_rss_bytes", 1, "peak_anonymous_bytes", 1, "units", (json_int_t)p->units);
    json_t *edges = json_pack("[o, o]", edge_record(p, edge_in(p), false), edge_record(p, edge_out(p), true));
    if (does(p, "no edges"))
        json_array_clear(edges);
    if (does(p, "wrong counts"))
        json_object_set_new(json_array_get(edges, 0), "received", json_integer(1));
    tell_runner(p, "done", json_pack("{s:o, s:o}", "stage", stage, "edges", edges));
    p->done = true;
}

static void end_if_all_is_done(struct peer *p)
{
    if (p->ended && p->taken == p->sent && p->sent > 0 && !p->done)
        tell_done(p);
}

/* ---- what comes from the producer ---- */

static void hand_on_header(struct peer *p, const char *kind, json_t *body)
{
    struct qp_error err = {0};
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    check(qp_message_pack(kind, body, &buffer, &err), &err);
    check(qp_frame_send(p->out, p->consumer, buffer.data, buffer.size, false, &err), &err);
}

/* A chunk goes with its unit, whatever number that has by now. */
static void hand_on_chunk(struct peer *p, json_t *body, struct qp_frames *frames)
{
    struct qp_error err = {0};
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    json_object_set_new(body, "seq", json_integer(json_integer_value(json_object_get(body, "seq")) + p->shift));
    check(qp_message_pack("chunk", body, &buffer, &err), &err);
    check(qp_frame_send(p->out, p->consumer, buffer.data, buffer.size, true, &err), &err);
    check(qp_frame_send(p->out, NULL, zmq_msg_data(&frames->frame[1]), zmq_msg_size(&frames->frame[1]), false, &err),
          &err);
}

static void tell_producer(struct peer *p, const char *kind, json_t *body)
{
    struct qp_error err = {0};
    qp_auto_json json_t *owned = body;
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    check(qp_message_pack(kind, owned, &buffer, &err), &err);
    check(qp_frame_send(p->in, NULL, buffer.data, buffer.size, false, &err), &err);
}

/* The unit goes no further; its producer gets all that it is owed. */
static void swallow(struct peer *p, const json_t *body)
{
    int64_t cost = 0;
    size_t i;
    json_t *tensor;
    json_array_foreach(json_object_get(body, "tensors"), i, tensor)
        if (strcmp(json_string_value(json_object_get(tensor, "where")), "file") != 0)
            cost += json_integer_value(json_object_get(tensor, "bytes"));
    tell_producer(p, "ack", json_pack("{s:O}", "seq", json_object_get(body, "seq")));
    tell_producer(p, "credit", json_pack("{s:I, s:i}", "bytes", (json_int_t)cost, "units", 1));
}

static void die(const struct peer *p)
{
    if (does(p, "crash"))
        raise(SIGSEGV);
    if (does(p, "kill"))
        raise(SIGKILL);
    if (does(p, "silence"))
        raise(SIGSTOP);
    if (does(p, "exit"))
        exit(0);
}

/* Whether a unit is to go no further. */
static bool is_swallowed(const struct peer *p, int64_t seq, const char *kind)
{
    return (seq == AT_BLOCK && (does(p, "swallow") || does(p, "swallow and renumber"))) ||
           (seq == p->last && does(p, "swallow the last")) || (strcmp(kind, "end") == 0 && does(p, "no end"));
}

/* The unit before this one once more, under a number of its own and without tensors. */
static void repeat(struct peer *p)
{
    if (!p->kept)
        return;
    p->from = AT_BLOCK + ++p->shift;
    json_object_set_new(p->kept, "seq", json_integer(p->from));
    json_object_set_new(p->kept, "units", json_integer(p->sent++));
    json_object_set_new(p->kept, "tensors", json_array());
    json_object_set_new(json_object_get(p->kept, "attrs"), "block", json_integer(AT_BLOCK));
    hand_on_header(p, "unit", p->kept);
    json_decref(p->kept);
    p->kept = NULL;
}

/* Hands a unit's header on, or does what is wrong with it. */
static void take_unit(struct peer *p, json_t *body)
{
    int64_t seq = json_integer_value(json_object_get(body, "seq"));
    const char *kind = json_string_value(json_object_get(body, "kind"));
    const json_t *attrs = json_object_get(body, "attrs");
    repeat(p);
    if (seq == AT_BLOCK)
        die(p);
    if (seq == AT_BLOCK && does(p, "double"))
        p->kept = json_deep_copy(body);
    if (strcmp(kind, "model") == 0)
        p->last = json_integer_value(json_object_get(attrs, "blocks"));
    if (strcmp(kind, "model") == 0 && does(p, "replace the scheme"))
        json_object_set_new((json_t *)attrs, "scheme", json_string("int8"));
    p->dropping = is_swallowed(p, seq, kind);
    if (p->dropping) {
        p->shift -= !does(p, "swallow");
        p->from = seq;
        swallow(p, body);
        return;
    }
    json_object_set_new(body, "seq", json_integer(seq + p->shift));
    json_object_set_new(body, "units", json_integer(p->sent++));
    hand_on_header(p, "unit", body);
}

static bool keeps_all(const struct peer *p)
{
    return does(p, "keep all") || does(p, "busy") || does(p, "write elsewhere");
}

static void take_from_producer(struct peer *p, struct qp_frames *frames)
{
    const char *kind;
    struct qp_error err = {0};
    qp_auto_json json_t *body = NULL;
    check(qp_message_unpack(QP_FROM_PRODUCER, zmq_msg_data(&frames->frame[0]), zmq_msg_size(&frames->frame[0]), &kind,
                            &body, &err),
          &err);
    if (strcmp(kind, "chunk") == 0 && (p->dropping || keeps_all(p)))
        return;
    if (strcmp(kind, "unit") != 0) {
        hand_on_chunk(p, body, frames);
        return;
    }
    p->units++;
    p->ended = strcmp(json_string_value(json_object_get(body, "kind")), "end") == 0;
    if (!keeps_all(p))
        take_unit(p, body);
    if (does(p, "done at once") && p->units == 1)
        tell_done(p);
    end_if_all_is_done(p);
}

/* ---- what comes from the consumer ---- */

static bool is_withheld(const struct peer *p, const char *kind)
{
    return (strcmp(kind, "ack") == 0 && does(p, "never acknowledge")) ||
           (strcmp(kind, "credit") == 0 && does(p, "never grant"));
}

static void take_from_consumer(struct peer *p, struct qp_frames *frames)
{
    const char *kind;
    struct qp_error err = {0};
    qp_auto_json json_t *body = NULL;
    check(qp_message_unpack(QP_FROM_CONSUMER, zmq_msg_data(&frames->frame[1]), zmq_msg_size(&frames->frame[1]), &kind,
                            &body, &err),
          &err);
    if (strcmp(kind, "hello") == 0) {
        snprintf(p->consumer, sizeof p->consumer, "%.*s", (int)zmq_msg_size(&frames->frame[0]),
                 (char *)zmq_msg_data(&frames->frame[0]));
        return;
    }
    p->taken += strcmp(kind, "ack") == 0;
    if (!p->in || is_withheld(p, kind))
        return;
    if (p->shift && json_object_get(body, "seq")) {
        int64_t seq = json_integer_value(json_object_get(body, "seq"));
        json_object_set_new(body, "seq", json_integer(seq >= p->from ? seq - p->shift : seq));
    }
    tell_producer(p, kind, json_incref(body));
    end_if_all_is_done(p);
}

/* ---- the lifecycle ---- */

static void dial_producer(struct peer *p)
{
    struct qp_error err = {0};
    char identity[256];
    const json_t *from = json_array_get(json_object_get(input_of(p), "from"), 0);
    const char *edge = does(p, "edge edge") ? "9.a-b" : edge_in(p);
    const char *run = does(p, "edge run") ? "other" : json_string_value(json_object_get(p->config, "run"));
    snprintf(identity, sizeof identity, "%s/0", edge_in(p));
    check(qp_socket_new(p->context, ZMQ_DEALER, identity, &p->in, &err), &err);
    check(qp_socket_dial(p->in, json_string_value(json_object_get(from, "endpoint")), &err), &err);
    json_t *hello = json_pack("{s:i, s:s, s:s, s:s, s:i, s:s}", "protocol", does(p, "edge version") ? 2 : 1, "run", run,
                              "edge", edge, "instance", p->name, "replica", 0, "host", p->host);
    if (does(p, "edge hello key"))
        json_object_set_new(hello, "colour", json_string("red"));
    tell_producer(p, "hello", hello);
}

static void take_config(struct peer *p, json_t *body)
{
    p->config = body;
    if (does(p, "never ready"))
        return;
    dial_producer(p);
    tell_runner(p, "ready", json_object());
    if (does(p, "write elsewhere")) {
        tell_runner(p, "report", json_pack("{s:s, s:[{s:s}]}", "key", "outputs", "value", "path", "elsewhere"));
        fclose(fopen("elsewhere", "w"));
    }
    if (does(p, "control key"))
        tell_runner(p, "progress", json_pack("{s:i, s:i, s:f}", "done", 1, "total", 2, "percent", 50.0));
    if (does(p, "control kind"))
        tell_runner(p, "weather", json_pack("{s:s}", "sky", "blue"));
    if (does(p, "escape"))
        tell_runner(p, "warning",
                    json_pack("{s:s, s:s, s:s}", "code", "odd", "where", "here", "message", "\033[2J\aseen\r\nhere"));
    if (does(p, "escape and fail"))
        tell_runner(p, "failed", json_pack("{s:i, s:s, s:n}", "code", 4, "message", "\033]0;title\aseen", "seq"));
}

static void take_from_runner(struct peer *p)
{
    const char *kind;
    struct qp_error err = {0};
    json_t *body;
    int r;
    while ((r = qp_client_receive(p->control, &kind, &body, &err)) > 0) {
        if (strcmp(kind, "config") == 0) {
            take_config(p, body);
            continue;
        }
        json_decref(body);
        if (strcmp(kind, "stop") == 0 || strcmp(kind, "bye") == 0)
            exit(0);
    }
    check(r, &err);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void serve(struct peer *p)
{
    struct qp_frames frames;
    zmq_pollitem_t items[] = {{.socket = p->control, .events = ZMQ_POLLIN},
                              {.socket = p->out, .events = ZMQ_POLLIN},
                              {.socket = p->in, .events = ZMQ_POLLIN}};
    zmq_poll(items, p->in ? 3 : 2, 200);
    take_from_runner(p);
    while (p->config && qp_frames_receive(p->out, &frames, NULL) > 0) {
        take_from_consumer(p, &frames);
        qp_frames_close(&frames);
    }
    while (p->in && *p->consumer && qp_frames_receive(p->in, &frames, NULL) > 0) {
        take_from_producer(p, &frames);
        qp_frames_close(&frames);
    }
    if (now() - p->heartbeat < 0.5)
        return;
    p->heartbeat = now();
    tell_runner(p, "heartbeat", json_pack("{s:i}", "rss_bytes", 1));
    if (does(p, "busy"))
        tell_runner(p, "busy", json_pack("{s:i, s:f}", "unit", 1, "cpu_seconds", 1.0));
}

int main(int argc, char **argv)
{
    struct qp_error err = {0};
    if (argc < 8 || strcmp(argv[2], "--control") != 0)
        return argc > 1 ? qp_stage_main(&desc, argc - 1, argv + 1) : 2;
    struct peer p = {.does = argv[1], .name = argv[5]};
    qp_auto_free char *folder = qp_folder_of(argv[3]);
    qp_auto_free char *endpoint = qp_format("%s/%s.0.out", folder, p.name);
    qp_host_identity(p.host, sizeof p.host);
    check(qp_context_new(&p.context, &err), &err);
    check(qp_client_open(p.context, argv[3], p.name, 0, &p.control, &err), &err);
    check(qp_socket_new(p.context, ZMQ_ROUTER, NULL, &p.out, &err), &err);
    check(qp_socket_bind(p.out, endpoint, p.endpoint, sizeof p.endpoint, &err), &err);
    greet_runner(&p);
    for (;;)
        serve(&p);
}
