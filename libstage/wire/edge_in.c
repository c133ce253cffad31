#include "libstage/wire/edge_in.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/control.h"
#include "libstage/wire/long_header.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "libstage/wire/unit_header.h"
#include "libstage/wire/unit_order.h"

#define MESSAGES_PER_POLL 64

/* A unit that has come, or is coming. */
struct received_unit {
    struct received_unit *next;
    struct qp_unit *unit;
    struct qp_receipt *receipt;
    bool *inlined; /* of each tensor: its bytes come in chunks */
    size_t tensor; /* the one whose bytes come next */
    uint64_t at;   /* its next byte */
    bool duplicate;
};

/* The seq of a unit whose receipt is still held by somebody. */
struct open_receipt {
    struct open_receipt *next;
    int64_t seq;
};

struct qp_in {
    void *socket;
    char *edge;
    bool local;
    struct qp_references *references;
    const struct qp_allocator *allocator;
    int64_t window_bytes;
    int64_t units_left, bytes_left; /* of the credit that the producer has */
    int64_t return_units, return_bytes;
    struct qp_receipts receipts;
    struct open_receipt *open;
    struct received_unit *coming;
    struct qp_long_header header; /* of a unit, in parts */
    struct received_unit *first, **last;
    struct qp_unit_order order; /* of the units that came */
    int64_t taken;              /* seq of the unit that was taken last */
    int64_t units;              /* headers since hello */
    bool ended;
    int64_t received, duplicates;
};

static int send_message(struct qp_in *in, const char *kind, json_t *body, struct qp_error *err)
{
    qp_auto_json json_t *owned = body;
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    int r = owned ? qp_message_pack(kind, owned, &buffer, err) : qp_fail_memory(err, 0, "a message");
    return r < 0 ? r : qp_frame_send(in->socket, NULL, buffer.data, buffer.size, false, err);
}

static int grant(struct qp_in *in, int64_t bytes, int64_t units, struct qp_error *err)
{
    in->bytes_left += bytes;
    in->units_left += units;
    return send_message(in, "credit", json_pack("{s:I, s:I}", "bytes", (json_int_t)bytes, "units", (json_int_t)units),
                        err);
}

static int greet(struct qp_in *in, void *context, const struct qp_in_config *config, struct qp_error *err)
{
    char identity[256];
    if ((size_t)snprintf(identity, sizeof identity, "%s/%d", config->edge, config->replica) >= sizeof identity)
        return qp_fail(err, QP_ERR_INPUT, "edge %s: its name is too long; use shorter stage names", config->edge);
    int r = qp_socket_new(context, ZMQ_DEALER, identity, &in->socket, err);
    if (r == 0)
        r = qp_socket_dial(in->socket, config->endpoint, err);
    if (r == 0)
        r = send_message(in, "hello",
                         json_pack("{s:i, s:s, s:s, s:s, s:i, s:s, s:o*}", "protocol", QP_PROTOCOL_VERSION, "run",
                                   config->run, "edge", config->edge, "instance", config->instance, "replica",
                                   config->replica, "host", config->host, "x-discards",
                                   config->discards ? json_true() : NULL),
                         err);
    return r < 0 ? r : grant(in, config->window_bytes, config->window_units, err);
}

int qp_in_open(void *context, const struct qp_in_config *config, struct qp_in **out, struct qp_error *err)
{
    struct qp_in *in = calloc(1, sizeof *in);
    if (!in || !(in->edge = strdup(config->edge))) {
        free(in);
        return qp_fail_memory(err, sizeof *in, config->edge);
    }
    in->local = config->local;
    in->references = config->references;
    in->allocator = config->allocator;
    in->window_bytes = config->window_bytes;
    in->receipts.wake = config->wake;
    in->last = &in->first;
    in->taken = -1;
    qp_unit_order_start(&in->order);
    int r = greet(in, context, config, err);
    if (r < 0) {
        qp_in_close_socket(in);
        qp_in_free(in);
        return r;
    }
    *out = in;
    return 0;
}

void qp_in_close_socket(struct qp_in *in)
{
    if (in->socket)
        zmq_close(in->socket);
    in->socket = NULL;
}

static void free_received(struct received_unit *received)
{
    if (!received)
        return;
    qp_unit_free(received->unit);
    qp_receipt_release(received->receipt);
    free(received->inlined);
    free(received);
}

static void free_due(struct qp_in *in)
{
    struct qp_receipt *due = qp_receipts_take(&in->receipts);
    while (due) {
        struct qp_receipt *next = due->next;
        free(due);
        due = next;
    }
    struct qp_release *released = qp_releases_take(&in->receipts);
    while (released) {
        struct qp_release *next = released->next;
        free(released);
        released = next;
    }
}

void qp_in_free(struct qp_in *in)
{
    if (!in)
        return;
    free_received(in->coming);
    qp_long_header_clear(&in->header);
    while (in->first) {
        struct received_unit *received = in->first;
        in->first = received->next;
        free_received(received);
    }
    free_due(in);
    while (in->open) {
        struct open_receipt *open = in->open;
        in->open = open->next;
        free(open);
    }
    free(in->edge);
    free(in);
}

void *qp_in_socket(const struct qp_in *in)
{
    return in->socket;
}

const char *qp_in_edge(const struct qp_in *in)
{
    return in->edge;
}

int64_t qp_in_taken(const struct qp_in *in)
{
    return in->taken;
}

bool qp_in_ended(const struct qp_in *in)
{
    return in->ended;
}

const struct qp_unit *qp_in_next(const struct qp_in *in)
{
    return in->first ? in->first->unit : NULL;
}

struct qp_unit *qp_in_take(struct qp_in *in, struct qp_receipt **receipt)
{
    struct received_unit *received = in->first;
    struct qp_unit *unit = received->unit;
    in->first = received->next;
    if (!in->first)
        in->last = &in->first;
    in->taken = unit->seq;
    in->ended = unit->kind == QP_UNIT_END;
    *receipt = received->receipt;
    free(received->inlined);
    free(received);
    return unit;
}

void qp_in_processed(struct qp_in *in, const struct qp_receipt *receipt)
{
    in->return_units++;
    in->return_bytes += (int64_t)receipt->cost;
}

/* ---- a unit's header ---- */

static int open_reference(struct qp_in *in, const struct qp_tensor_entry *entry, size_t index,
                          struct qp_receipt *receipt, struct qp_tensor **out, struct qp_error *err)
{
    struct qp_storage *storage;
    if (!in->local)
        return qp_fail(err, QP_ERR_STAGE, "%s: refers to memory of another host", entry->name);
    int r = qp_references_open(in->references, entry->where, entry->path, receipt, index, &storage, err);
    if (r < 0)
        return qp_wrap(err, "%s", entry->name);
    r = qp_tensor_view(entry->name, entry->dtype, entry->rank, entry->shape, (struct qp_place){storage, entry->offset},
                       out, err);
    qp_storage_unref(storage);
    return r;
}

static int add_tensor(struct qp_in *in, struct received_unit *received, const struct qp_tensor_entry *entry,
                      struct qp_error *err)
{
    struct qp_tensor *tensor;
    if (qp_unit_find(received->unit, entry->name))
        return qp_fail(err, QP_ERR_STAGE, "%s: this tensor is there twice", entry->name);
    bool inlined = entry->where == QP_WHERE_INLINE;
    int r = inlined ? qp_allocate(in->allocator, entry->name, entry->dtype, entry->rank, entry->shape, &tensor, err)
                    : open_reference(in, entry, received->unit->count, received->receipt, &tensor, err);
    if (r < 0)
        return r;
    received->inlined[received->unit->count] = inlined;
    return qp_unit_put(received->unit, tensor, err);
}

/* Reads what the header says of its tensors, and what they cost. */
static int read_entries(const json_t *tensors, struct qp_tensor_entry *entries, uint64_t *cost, struct qp_error *err)
{
    *cost = 0;
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        int r = qp_tensor_entry_read(json_array_get(tensors, i), &entries[i], err);
        if (r < 0)
            return r;
        if (entries[i].where != QP_WHERE_FILE && __builtin_add_overflow(*cost, entries[i].bytes, cost))
            return qp_fail(err, QP_ERR_STAGE, "%s: sizes without bounds", entries[i].name);
    }
    return 0;
}

/* The producer may only send what it has credit for; has_space in edge_out.c is the same rule. Nothing is allocated for
 * a unit before this. */
static int charge(struct qp_in *in, uint64_t cost, struct qp_error *err)
{
    bool nothing_in_use = in->bytes_left >= in->window_bytes;
    if (in->units_left <= 0 || cost > INT64_MAX / 2 || (!nothing_in_use && (int64_t)cost > in->bytes_left))
        return qp_fail(err, QP_ERR_STAGE, "it came without credit");
    in->units_left--;
    in->bytes_left -= (int64_t)cost;
    return 0;
}

static int fill_received(struct qp_in *in, struct received_unit *received, const json_t *tensors, struct qp_error *err)
{
    size_t count = json_array_size(tensors);
    qp_auto_free struct qp_tensor_entry *entries = calloc(count + 1, sizeof *entries);
    received->inlined = calloc(count + 1, sizeof *received->inlined);
    if (!entries || !received->inlined)
        return qp_fail_memory(err, count * sizeof *entries, "a unit's tensors");
    int r = read_entries(tensors, entries, &received->receipt->cost, err);
    if (r == 0)
        r = charge(in, received->receipt->cost, err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = add_tensor(in, received, &entries[i], err);
    return r;
}

/* Lost units show here: in what the producer has counted. */
static int check_count(struct qp_in *in, enum qp_unit_kind kind, int64_t units, struct qp_error *err)
{
    if (kind == 0)
        return qp_fail(err, QP_ERR_STAGE, "it is neither model, block nor end");
    if (units != in->units)
        return qp_fail(err, QP_ERR_STAGE, "%lld units were sent before it, %lld have come: some are lost",
                       (long long)units, (long long)in->units);
    return 0;
}

static int begin_unit(struct qp_in *in, const json_t *body, struct qp_error *err)
{
    enum qp_unit_kind kind = qp_unit_kind_by_name(json_string_value(json_object_get(body, "kind")));
    int64_t seq = json_integer_value(json_object_get(body, "seq"));
    if (in->coming)
        return qp_fail(err, QP_ERR_STAGE, "unit %lld came before all bytes of unit %lld", (long long)seq,
                       (long long)in->coming->unit->seq);
    struct received_unit *received = in->coming = calloc(1, sizeof *received);
    if (!received)
        return qp_fail_memory(err, sizeof *received, "a unit");
    int r = qp_unit_new(kind, seq, &received->unit, err);
    if (r == 0)
        r = qp_receipt_new(&in->receipts, seq, &received->receipt, err);
    if (r == 0)
        r = check_count(in, kind, json_integer_value(json_object_get(body, "units")), err);
    if (r == 0)
        r = fill_received(in, received, json_object_get(body, "tensors"), err);
    if (r < 0)
        return qp_wrap(err, "unit %lld", (long long)seq);
    json_decref(received->unit->attrs);
    received->unit->attrs = json_incref(json_object_get(body, "attrs"));
    received->duplicate = seq <= in->order.seq;
    in->units++;
    return 0;
}

/* ---- a unit's bytes ---- */

/* The tensor whose bytes come next; count when all have come. */
static size_t next_tensor(struct received_unit *received)
{
    const struct qp_unit *unit = received->unit;
    while (received->tensor < unit->count &&
           (!received->inlined[received->tensor] || received->at == unit->tensors[received->tensor]->bytes)) {
        received->tensor++;
        received->at = 0;
    }
    return received->tensor;
}

static int take_chunk(struct qp_in *in, const json_t *body, zmq_msg_t *frame, struct qp_error *err)
{
    struct received_unit *received = in->coming;
    int64_t seq = json_integer_value(json_object_get(body, "seq"));
    size_t tensor = (size_t)json_integer_value(json_object_get(body, "tensor")), size = zmq_msg_size(frame);
    uint64_t offset = (uint64_t)json_integer_value(json_object_get(body, "offset"));
    if (!received || seq != received->unit->seq || tensor != next_tensor(received) || offset != received->at)
        return qp_fail(err, QP_ERR_STAGE, "unit %lld: a chunk of tensor %zu at byte %llu that is not the next one",
                       (long long)seq, tensor, (unsigned long long)offset);
    struct qp_tensor *target = received->unit->tensors[tensor];
    if (size == 0 || size > QP_CHUNK_LIMIT || size > target->bytes - offset)
        return qp_fail(err, QP_ERR_STAGE, "unit %lld: %s: a chunk of %zu bytes at byte %llu of %zu", (long long)seq,
                       target->name, size, (unsigned long long)offset, target->bytes);
    memcpy((char *)target->data + offset, zmq_msg_data(frame), size);
    received->at += size;
    return 0;
}

static int remember(struct qp_in *in, int64_t seq, struct qp_error *err)
{
    struct open_receipt *open = calloc(1, sizeof *open);
    if (!open)
        return qp_fail_memory(err, sizeof *open, "a receipt");
    open->seq = seq;
    open->next = in->open;
    in->open = open;
    return 0;
}

static bool is_open(const struct qp_in *in, int64_t seq)
{
    const struct open_receipt *open = in->open;
    while (open && open->seq != seq)
        open = open->next;
    return open != NULL;
}

static int acknowledge(struct qp_in *in, int64_t seq, struct qp_error *err)
{
    return send_message(in, "ack", json_pack("{s:I}", "seq", (json_int_t)seq), err);
}

/* The producer has sent it again: it costs no more than its credit. */
static int drop_duplicate(struct qp_in *in, struct received_unit *received, struct qp_error *err)
{
    int64_t seq = received->unit->seq;
    in->duplicates++;
    received->receipt->duplicate = true;
    qp_in_processed(in, received->receipt);
    qp_unit_free(received->unit);
    free(received->receipt); /* references that the unit had are gone with it, and nobody else held it */
    free(received->inlined);
    free(received);
    return is_open(in, seq) ? 0 : acknowledge(in, seq, err);
}

static int finish_unit(struct qp_in *in, struct qp_error *err)
{
    struct received_unit *received = in->coming;
    if (!received || next_tensor(received) < received->unit->count)
        return 0;
    if (!received->duplicate && qp_unit_order_take(&in->order, received->unit, err) < 0)
        return qp_wrap(err, "unit %lld", (long long)received->unit->seq);
    in->coming = NULL;
    if (received->duplicate)
        return drop_duplicate(in, received, err);
    in->received++;
    *in->last = received;
    in->last = &received->next;
    return remember(in, received->unit->seq, err);
}

/* ---- polling ---- */

/* A part of a unit's header: the unit begins with the last one. */
static int take_header(struct qp_in *in, const json_t *part, zmq_msg_t *frame, struct qp_error *err)
{
    qp_auto_json json_t *body = NULL;
    int r = qp_long_header_take(&in->header, part, zmq_msg_data(frame), zmq_msg_size(frame), err);
    if (r <= 0)
        return r;
    r = qp_unit_message_unpack(in->header.data, in->header.size, &body, err);
    qp_long_header_clear(&in->header);
    return r < 0 ? r : begin_unit(in, body, err);
}

static int take_message(struct qp_in *in, struct qp_frames *frames, struct qp_error *err)
{
    const char *kind;
    qp_auto_json json_t *body = NULL;
    int r = qp_message_unpack(QP_FROM_PRODUCER, zmq_msg_data(&frames->frame[0]), zmq_msg_size(&frames->frame[0]), &kind,
                              &body, err);
    if (r < 0)
        return r;
    bool chunk = strcmp(kind, "chunk") == 0, header = strcmp(kind, "header") == 0;
    if (frames->count != 1 + (chunk || header))
        return qp_fail(err, QP_ERR_STAGE, "a %s of %d frames", kind, frames->count);
    if (in->header.at > 0 && !header)
        return qp_fail(err, QP_ERR_STAGE, "a %s before all parts of the header of unit %lld", kind,
                       (long long)in->header.seq);
    r = chunk    ? take_chunk(in, body, &frames->frame[1], err)
        : header ? take_header(in, body, &frames->frame[1], err)
                 : begin_unit(in, body, err);
    return r < 0 ? r : finish_unit(in, err);
}

static int receive(struct qp_in *in, struct qp_error *err)
{
    int happened = 0;
    for (int i = 0; i < MESSAGES_PER_POLL; i++) {
        struct qp_frames frames;
        int r = qp_frames_receive(in->socket, &frames, err);
        if (r <= 0)
            return r < 0 ? r : happened;
        r = take_message(in, &frames, err);
        qp_frames_close(&frames);
        if (r < 0)
            return r;
        happened = 1;
    }
    return happened;
}

static void forget(struct qp_in *in, int64_t seq)
{
    struct open_receipt **link = &in->open;
    while (*link && (*link)->seq != seq)
        link = &(*link)->next;
    struct open_receipt *open = *link;
    if (open)
        *link = open->next;
    free(open);
}

static int send_acknowledgements(struct qp_in *in, struct qp_error *err)
{
    int r = 0;
    struct qp_receipt *due = qp_receipts_take(&in->receipts);
    while (due) {
        struct qp_receipt *next = due->next;
        forget(in, due->seq);
        if (r == 0)
            r = acknowledge(in, due->seq, err);
        free(due);
        due = next;
    }
    return r;
}

/* Tells of the releases of one unit in *list, and takes them out. */
static int send_release(struct qp_in *in, struct qp_release **list, struct qp_error *err)
{
    int64_t seq = (*list)->seq;
    json_t *tensors = json_array();
    for (struct qp_release **link = list; *link;) {
        struct qp_release *release = *link;
        if (release->seq != seq) {
            link = &release->next;
            continue;
        }
        json_array_append_new(tensors, json_integer((json_int_t)release->tensor));
        *link = release->next;
        free(release);
    }
    if (is_open(in, seq))
        return send_message(in, "release", json_pack("{s:I, s:o}", "seq", (json_int_t)seq, "tensors", tensors), err);
    json_decref(tensors);
    return 0;
}

/* Units that are acknowledged have nothing more to release. */
static int send_releases(struct qp_in *in, struct qp_error *err)
{
    int r = 0;
    struct qp_release *list = qp_releases_take(&in->receipts);
    while (list) {
        int sent = send_release(in, &list, r < 0 ? NULL : err);
        r = r < 0 ? r : sent;
    }
    return r;
}

static int return_credit(struct qp_in *in, struct qp_error *err)
{
    if (in->return_units == 0)
        return 0;
    int r = grant(in, in->return_bytes, in->return_units, err);
    in->return_bytes = in->return_units = 0;
    return r;
}

int qp_in_poll(struct qp_in *in, struct qp_error *err)
{
    int happened = receive(in, err);
    int r = happened < 0 ? happened : send_acknowledgements(in, err);
    if (r == 0)
        r = send_releases(in, err);
    if (r == 0)
        r = return_credit(in, err);
    if (r == 0)
        return happened;
    if (r == QP_ERR_INPUT) /* what a peer says is not the user's input */
        err->code = QP_ERR_STAGE;
    return qp_wrap(err, "edge %s", in->edge);
}

void qp_in_statistics(const struct qp_in *in, json_t *records)
{
    json_array_append_new(records, json_pack("{s:s, s:s, s:I, s:I}", "edge", in->edge, "role", "consumer", "received",
                                             (json_int_t)in->received, "duplicates", (json_int_t)in->duplicates));
}
