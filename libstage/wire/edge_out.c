#include "libstage/wire/edge_out.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"
#include "libstage/base/cleanup.h"
#include "libstage/wire/codec.h"
#include "libstage/wire/control.h"
#include "libstage/wire/long_header.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "libstage/wire/unit_header.h"

#define CHUNK ((size_t)1 << 20) /* bytes of a chunk; measured best of 1 to 64 MiB */
#define MESSAGES_PER_POLL 64

/* An emitted unit, shared by the port's edges. */
struct queued_unit {
    int holders;
    struct qp_unit *unit; /* its attributes are packed by now */
    msgpack_sbuffer attrs;
    int64_t block; /* its number; -1: it is none */
    struct qp_receipt *origin;
    int *users; /* of each tensor: edges whose consumer may still use it; at 0 it is dropped from the unit */
};

/* A queued unit on one edge, from push to acknowledgement. */
struct entry {
    struct entry *next;
    struct queued_unit *queued_unit;
    bool sent, sent_before;
    bool released[]; /* of each tensor */
};

struct edge {
    struct edge *next;
    char *name;
    char peer[256];  /* routing id of the consumer; "" before its hello */
    bool local;      /* the consumer is on this host */
    bool window_set; /* the first credit after a hello is the window */
    bool discards;   /* the consumer reads nothing: units count as sent and acknowledged */
    int64_t window_bytes;
    int64_t bytes, units; /* credit left; bytes can be negative */
    int64_t units_sent;   /* since the hello */
    struct entry *first, **last;
    int64_t sent, acknowledged, resent, bytes_inline, bytes_by_reference;
};

struct qp_out {
    void *socket;
    char endpoint[256];
    char *run, *host;
    struct edge *edges, **last_edge;
    int64_t last_seq;
    long rejected;
    struct qp_error why;
};

static void queued_unit_release(struct queued_unit *queued_unit)
{
    if (--queued_unit->holders > 0)
        return;
    qp_unit_free(queued_unit->unit);
    msgpack_sbuffer_destroy(&queued_unit->attrs);
    qp_receipt_release(queued_unit->origin);
    free(queued_unit->users);
    free(queued_unit);
}

/* The entry's consumer does not use a tensor any more; the last one drops it. */
static void release_use(struct entry *entry, size_t tensor)
{
    struct queued_unit *queued_unit = entry->queued_unit;
    if (entry->released[tensor])
        return;
    entry->released[tensor] = true;
    if (--queued_unit->users[tensor] > 0)
        return;
    qp_tensor_unref(queued_unit->unit->tensors[tensor]);
    queued_unit->unit->tensors[tensor] = NULL;
}

int qp_out_open(void *context, const char *endpoint, struct qp_out **out, struct qp_error *err)
{
    struct qp_out *o = calloc(1, sizeof *o);
    if (!o)
        return qp_fail_memory(err, sizeof *o, "an output port");
    o->last_edge = &o->edges;
    o->last_seq = -1;
    int r = qp_socket_new(context, ZMQ_ROUTER, NULL, &o->socket, err);
    if (r == 0)
        r = qp_socket_bind(o->socket, endpoint, o->endpoint, sizeof o->endpoint, err);
    if (r < 0) {
        qp_out_close_socket(o);
        free(o);
        return r;
    }
    *out = o;
    return 0;
}

void qp_out_close_socket(struct qp_out *out)
{
    qp_socket_close(out->socket, out->endpoint);
    out->socket = NULL;
}

static void free_edge(struct edge *edge)
{
    while (edge->first) {
        struct entry *entry = edge->first;
        edge->first = entry->next;
        queued_unit_release(entry->queued_unit);
        free(entry);
    }
    free(edge->name);
    free(edge);
}

void qp_out_free(struct qp_out *out)
{
    if (!out)
        return;
    while (out->edges) {
        struct edge *edge = out->edges;
        out->edges = edge->next;
        free_edge(edge);
    }
    free(out->run);
    free(out->host);
    free(out);
}

const char *qp_out_endpoint(const struct qp_out *out)
{
    return out->endpoint;
}

void *qp_out_socket(const struct qp_out *out)
{
    return out->socket;
}

int qp_out_configure(struct qp_out *out, const char *run, const char *host, struct qp_error *err)
{
    out->run = strdup(run);
    out->host = strdup(host);
    return out->run && out->host ? 0 : qp_fail_memory(err, strlen(run), "an output port");
}

int qp_out_add_edge(struct qp_out *out, const char *name, struct qp_error *err)
{
    struct edge *edge = calloc(1, sizeof *edge);
    if (!edge || !(edge->name = strdup(name))) {
        free(edge);
        return qp_fail_memory(err, sizeof *edge, name);
    }
    edge->last = &edge->first;
    edge->local = true;
    *out->last_edge = edge;
    out->last_edge = &edge->next;
    return 0;
}

static int append(struct edge *edge, struct queued_unit *queued_unit, struct qp_error *err)
{
    size_t count = queued_unit->unit->count;
    struct entry *entry = calloc(1, sizeof *entry + count * sizeof *entry->released);
    if (!entry)
        return qp_fail_memory(err, sizeof *entry, "a unit to send");
    entry->queued_unit = queued_unit;
    queued_unit->holders++;
    for (size_t i = 0; i < count; i++)
        queued_unit->users[i]++;
    *edge->last = entry;
    edge->last = &entry->next;
    return 0;
}

/* Packs the attributes, so that no JSON value is seen by two threads, and tries the header, so that a unit that cannot
 * travel fails where it is emitted. */
static int wrap_unit(struct qp_unit *unit, struct queued_unit *queued_unit, struct qp_error *err)
{
    int r = qp_codec_pack(unit->attrs, &queued_unit->attrs, err);
    if (r < 0)
        return qp_wrap(err, "attributes of %s unit %lld", qp_unit_kind_name(unit->kind), (long long)unit->seq);
    qp_auto_sbuffer msgpack_sbuffer header;
    msgpack_sbuffer_init(&header);
    r = qp_unit_header_pack(unit, &queued_unit->attrs, INT64_MAX, true, &header, err);
    json_decref(unit->attrs);
    unit->attrs = NULL;
    queued_unit->users = calloc(unit->count + 1, sizeof *queued_unit->users);
    return r == 0 && !queued_unit->users ? qp_fail_memory(err, unit->count, "a unit to send") : r;
}

int qp_out_push(struct qp_out *out, struct qp_unit *unit, struct qp_receipt *origin, struct qp_error *err)
{
    int r = 0;
    struct queued_unit *queued_unit = NULL;
    if (unit->seq <= out->last_seq)
        r = qp_fail(err, QP_ERR_STAGE, "unit %lld emitted after unit %lld; seq has to grow", (long long)unit->seq,
                    (long long)out->last_seq);
    else if (!(queued_unit = calloc(1, sizeof *queued_unit)))
        r = qp_fail_memory(err, sizeof *queued_unit, "a unit to send");
    if (r < 0) {
        qp_unit_free(unit);
        return r;
    }
    queued_unit->holders = 1;
    queued_unit->unit = unit;
    queued_unit->block = qp_unit_block(unit);
    queued_unit->origin = origin;
    qp_receipt_hold(origin);
    msgpack_sbuffer_init(&queued_unit->attrs);
    out->last_seq = unit->seq;
    r = wrap_unit(unit, queued_unit, err);
    for (struct edge *edge = out->edges; r == 0 && edge; edge = edge->next)
        r = append(edge, queued_unit, err);
    queued_unit_release(queued_unit);
    return r;
}

static struct entry *first_unsent(const struct edge *edge)
{
    struct entry *entry = edge->first;
    while (entry && entry->sent)
        entry = entry->next;
    return entry;
}

bool qp_out_sent(const struct qp_out *out)
{
    for (const struct edge *edge = out->edges; edge; edge = edge->next)
        if (first_unsent(edge))
            return false;
    return true;
}

bool qp_out_empty(const struct qp_out *out)
{
    for (const struct edge *edge = out->edges; edge; edge = edge->next)
        if (edge->first)
            return false;
    return true;
}

bool qp_out_first(const struct qp_out *out, const char **edge, int64_t *seq)
{
    const struct entry *found = NULL;
    for (const struct edge *e = out->edges; e; e = e->next) {
        const struct entry *unsent = first_unsent(e), *first = unsent ? unsent : e->first;
        if (!first || (found && !unsent))
            continue;
        found = first;
        *edge = e->name;
        *seq = first->queued_unit->unit->seq;
        if (unsent)
            break;
    }
    return found != NULL;
}

/* Of one edge; its units are in order. */
static int64_t first_block(const struct edge *edge)
{
    const struct entry *entry = edge->first;
    while (entry && entry->queued_unit->block < 0)
        entry = entry->next;
    return entry ? entry->queued_unit->block : -1;
}

int64_t qp_out_first_block(const struct qp_out *out)
{
    int64_t first = -1;
    for (const struct edge *edge = out->edges; edge; edge = edge->next) {
        int64_t block = first_block(edge);
        if (block >= 0 && (first < 0 || block < first))
            first = block;
    }
    return first;
}

bool qp_out_local(const struct qp_out *out)
{
    for (const struct edge *edge = out->edges; edge; edge = edge->next)
        if (edge->local)
            return true;
    return false;
}

/* ---- sending ---- */

static void release_tensor(void *data, void *tensor)
{
    (void)data;
    qp_tensor_unref(tensor);
}

/* The bytes are not copied: ZeroMQ holds a reference of the tensor until they are on their way. */
static int send_chunk(struct qp_out *out, const char *peer, struct qp_unit *unit, size_t index, size_t offset,
                      struct qp_error *err)
{
    struct qp_tensor *tensor = unit->tensors[index];
    size_t size = tensor->bytes - offset < CHUNK ? tensor->bytes - offset : CHUNK;
    qp_auto_sbuffer msgpack_sbuffer header;
    msgpack_sbuffer_init(&header);
    qp_chunk_header_pack(unit->seq, index, offset, &header);
    int r = qp_frame_send(out->socket, peer, header.data, header.size, true, err);
    if (r < 0)
        return r;
    zmq_msg_t message;
    if (zmq_msg_init_data(&message, (char *)tensor->data + offset, size, release_tensor, qp_tensor_ref(tensor)) != 0) {
        qp_tensor_unref(tensor);
        return qp_fail_memory(err, size, "a chunk");
    }
    while (zmq_msg_send(&message, out->socket, ZMQ_DONTWAIT) < 0)
        if (zmq_errno() != EINTR) {
            zmq_msg_close(&message);
            return qp_fail(err, QP_ERR_STAGE, "cannot send: %s", zmq_strerror(zmq_errno()));
        }
    return 0;
}

static int send_unit(struct qp_out *out, struct edge *edge, struct queued_unit *queued_unit, struct qp_error *err)
{
    struct qp_unit *unit = queued_unit->unit;
    qp_auto_sbuffer msgpack_sbuffer header;
    msgpack_sbuffer_init(&header);
    int r = qp_unit_header_pack(unit, &queued_unit->attrs, edge->units_sent, edge->local, &header, err);
    if (r == 0 && header.size > QP_HEADER_LIMIT)
        r = qp_long_header_send(out->socket, edge->peer, unit->seq, header.data, header.size, err);
    else if (r == 0)
        r = qp_frame_send(out->socket, edge->peer, header.data, header.size, false, err);
    for (size_t i = 0; r == 0 && i < unit->count; i++)
        if (qp_travels(unit->tensors[i], edge->local) == QP_WHERE_INLINE)
            for (size_t at = 0; r == 0 && at < unit->tensors[i]->bytes; at += CHUNK)
                r = send_chunk(out, edge->peer, unit, i, at, err);
    return r;
}

/* The consumer is gone: all that it has not acknowledged waits for its successor. */
static void lose_consumer(struct edge *edge)
{
    edge->peer[0] = '\0';
    edge->window_set = false;
    edge->bytes = edge->units = edge->units_sent = 0;
    for (struct entry *entry = edge->first; entry; entry = entry->next) {
        entry->sent = false;
        for (size_t i = 0; i < entry->queued_unit->unit->count; i++)
            if (entry->released[i] && entry->queued_unit->unit->tensors[i]) {
                entry->released[i] = false;
                entry->queued_unit->users[i]++;
            }
    }
}

/* An entry is acknowledged; link: what points to it. */
static void finish_entry(struct edge *edge, struct entry **link)
{
    struct entry *entry = *link;
    *link = entry->next;
    if (!entry->next)
        edge->last = link;
    edge->acknowledged++;
    for (size_t i = 0; i < entry->queued_unit->unit->count; i++)
        release_use(entry, i);
    queued_unit_release(entry->queued_unit);
    free(entry);
}

static int discard_units(struct edge *edge)
{
    int happened = edge->first != NULL;
    while (edge->first) {
        edge->sent += !edge->first->sent_before;
        finish_entry(edge, &edge->first);
    }
    return happened;
}

/* What is left of a unit after a release cannot be sent to a successor of who released it. */
static int check_whole(const struct edge *edge, const struct queued_unit *queued_unit, struct qp_error *err)
{
    for (size_t i = 0; i < queued_unit->unit->count; i++)
        if (!queued_unit->unit->tensors[i])
            return qp_fail(err, QP_ERR_STAGE,
                           "edge %s: unit %lld cannot be sent again, since its last readers have given tensors of it "
                           "up; start the run again",
                           edge->name, (long long)queued_unit->unit->seq);
    return 0;
}

static void count_sent(struct edge *edge, struct entry *entry, const struct qp_unit_size *size)
{
    edge->units--;
    edge->bytes -= (int64_t)(size->inline_bytes + size->shm_bytes);
    edge->units_sent++;
    edge->resent += entry->sent_before;
    edge->sent += !entry->sent_before;
    edge->bytes_inline += (int64_t)size->inline_bytes;
    edge->bytes_by_reference += (int64_t)(size->shm_bytes + size->file_bytes);
    entry->sent = entry->sent_before = true;
}

static bool has_space(const struct edge *edge, uint64_t cost)
{
    bool nothing_in_use = edge->bytes >= edge->window_bytes;
    return edge->units > 0 && (nothing_in_use || (int64_t)cost <= edge->bytes);
}

static int send_edge(struct qp_out *out, struct edge *edge, struct qp_error *err)
{
    int happened = 0;
    if (edge->discards)
        return discard_units(edge);
    for (struct entry *entry = first_unsent(edge); edge->window_set && entry; entry = entry->next) {
        if (check_whole(edge, entry->queued_unit, err) < 0)
            return err->code;
        struct qp_unit_size size = qp_unit_size(entry->queued_unit->unit, edge->local);
        if (!has_space(edge, size.inline_bytes + size.shm_bytes))
            break;
        if (send_unit(out, edge, entry->queued_unit, NULL) < 0) {
            lose_consumer(edge);
            break;
        }
        count_sent(edge, entry, &size);
        happened = 1;
    }
    return happened;
}

/* ---- receiving ---- */

static int take_hello(struct qp_out *out, const char *peer, const json_t *body, struct qp_error *err)
{
    int protocol, replica;
    const char *run, *name, *instance, *host;
    json_unpack((json_t *)body, "{s:i, s:s, s:s, s:s, s:i, s:s}", "protocol", &protocol, "run", &run, "edge", &name,
                "instance", &instance, "replica", &replica, "host", &host);
    if (protocol != QP_PROTOCOL_VERSION)
        return qp_fail(err, QP_ERR_STAGE, "hello of a consumer %s of protocol version %d; this is version %d", instance,
                       protocol, QP_PROTOCOL_VERSION);
    if (strcmp(run, out->run) != 0)
        return qp_fail(err, QP_ERR_STAGE, "hello of a consumer %s of another run (%.40s)", instance, run);
    struct edge *edge = out->edges;
    while (edge && strcmp(edge->name, name) != 0)
        edge = edge->next;
    if (!edge)
        return qp_fail(err, QP_ERR_STAGE, "hello of a consumer %s of an edge %s that does not leave here", instance,
                       name);
    lose_consumer(edge);
    strcpy(edge->peer, peer);
    edge->local = strcmp(host, out->host) == 0;
    edge->discards = json_is_true(json_object_get(body, "x-discards"));
    return 0;
}

static int take_credit(struct edge *edge, const json_t *body, struct qp_error *err)
{
    int64_t bytes = json_integer_value(json_object_get(body, "bytes"));
    int64_t units = json_integer_value(json_object_get(body, "units"));
    if (!edge->window_set)
        edge->window_bytes = bytes;
    edge->window_set = true;
    if (__builtin_add_overflow(edge->bytes, bytes, &edge->bytes) ||
        __builtin_add_overflow(edge->units, units, &edge->units)) {
        lose_consumer(edge);
        return qp_fail(err, QP_ERR_STAGE, "credit without bounds");
    }
    return 0;
}

/* An acknowledgement may come twice, when a duplicate was sent. */
static int take_ack(struct edge *edge, const json_t *body)
{
    int64_t seq = json_integer_value(json_object_get(body, "seq"));
    struct entry **link = &edge->first;
    while (*link && (*link)->queued_unit->unit->seq != seq)
        link = &(*link)->next;
    if (*link && (*link)->sent_before)
        finish_entry(edge, link);
    return 0;
}

static int take_release(struct edge *edge, const json_t *body, struct qp_error *err)
{
    int64_t seq = json_integer_value(json_object_get(body, "seq"));
    const json_t *tensors = json_object_get(body, "tensors"), *index;
    struct entry *entry = edge->first;
    size_t i;
    while (entry && entry->queued_unit->unit->seq != seq)
        entry = entry->next;
    if (!entry || !entry->sent)
        return 0;
    json_array_foreach(tensors, i, index) {
        json_int_t n = json_is_integer(index) ? json_integer_value(index) : -1;
        if (n < 0 || (size_t)n >= entry->queued_unit->unit->count)
            return qp_fail(err, QP_ERR_STAGE, "a release of tensors that unit %lld has not", (long long)seq);
        release_use(entry, (size_t)n);
    }
    return 0;
}

/* The edge whose consumer has this routing id: EDGE/REPLICA. */
static struct edge *edge_of_peer(const struct qp_out *out, const char *peer)
{
    struct edge *edge = out->edges;
    while (edge) {
        size_t n = strlen(edge->name);
        if (strncmp(peer, edge->name, n) == 0 && peer[n] == '/')
            break;
        edge = edge->next;
    }
    return edge;
}

static int take_body(struct qp_out *out, const char *peer, const char *kind, const json_t *body, struct qp_error *err)
{
    if (strcmp(kind, "hello") == 0)
        return take_hello(out, peer, body, err);
    struct edge *edge = out->edges;
    while (edge && strcmp(edge->peer, peer) != 0)
        edge = edge->next;
    if (!edge)
        return qp_fail(err, QP_ERR_STAGE, "%s from a consumer that has not sent hello", kind);
    return strcmp(kind, "credit") == 0    ? take_credit(edge, body, err)
           : strcmp(kind, "release") == 0 ? take_release(edge, body, err)
                                          : take_ack(edge, body);
}

static int take_frames(struct qp_out *out, const char *peer, struct qp_frames *frames, struct qp_error *err)
{
    const char *kind;
    qp_auto_json json_t *body = NULL;
    if (frames->count != 2)
        return qp_fail(err, QP_ERR_STAGE, "a message of %d frames; expected 2", frames->count);
    int r = qp_message_unpack(QP_FROM_CONSUMER, zmq_msg_data(&frames->frame[1]), zmq_msg_size(&frames->frame[1]), &kind,
                              &body, err);
    return r < 0 ? r : take_body(out, peer, kind, body, err);
}

/* What a stranger sends that cannot be taken is dropped and counted. A consumer of ours would wait for ever for what
 * its message was to bring about: that is an error. */
static int take_message(struct qp_out *out, struct qp_frames *frames, struct qp_error *err)
{
    char peer[256];
    struct qp_error why = {0};
    snprintf(peer, sizeof peer, "%.*s", (int)zmq_msg_size(&frames->frame[0]), (char *)zmq_msg_data(&frames->frame[0]));
    if (take_frames(out, peer, frames, &why) == 0)
        return 0;
    const struct edge *edge = edge_of_peer(out, peer);
    if (edge)
        return qp_fail(err, QP_ERR_STAGE, "edge %s: a message of its consumer was refused: %s", edge->name,
                       why.message);
    out->why = why;
    out->rejected++;
    return 0;
}

int qp_out_poll(struct qp_out *out, struct qp_error *err)
{
    int happened = 0;
    for (int i = 0; out->run && i < MESSAGES_PER_POLL; i++) {
        struct qp_frames frames;
        int r = qp_frames_receive(out->socket, &frames, err);
        if (r < 0)
            return r;
        if (r == 0)
            break;
        r = take_message(out, &frames, err);
        qp_frames_close(&frames);
        if (r < 0)
            return r;
        happened = 1;
    }
    for (struct edge *edge = out->edges; edge; edge = edge->next) {
        int r = send_edge(out, edge, err);
        if (r < 0)
            return r;
        happened |= r;
    }
    return happened;
}

long qp_out_rejected(const struct qp_out *out, const char **why)
{
    *why = out->why.message;
    return out->rejected;
}

void qp_out_statistics(const struct qp_out *out, json_t *records)
{
    for (const struct edge *edge = out->edges; edge; edge = edge->next)
        json_array_append_new(records, json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "edge", edge->name, "role",
                                                 "producer", "sent", (json_int_t)edge->sent, "acknowledged",
                                                 (json_int_t)edge->acknowledged, "resent", (json_int_t)edge->resent,
                                                 "bytes_inline", (json_int_t)edge->bytes_inline, "bytes_by_reference",
                                                 (json_int_t)edge->bytes_by_reference));
}
