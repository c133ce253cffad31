#include "libstage/wire/long_header.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"

/* A part follows another, so that memory is taken for no more than has come. */
static int grow_header(struct qp_long_header *header, size_t size, struct qp_error *err)
{
    char *grown = realloc(header->data, header->at + size);
    if (!grown)
        return qp_fail_memory(err, header->at + size, "the header of a unit");
    header->data = grown;
    return 0;
}

int qp_long_header_send(void *socket, const char *peer, int64_t seq, const char *data, size_t size,
                        struct qp_error *err)
{
    int r = 0;
    for (size_t at = 0; r == 0 && at < size; at += QP_HEADER_LIMIT) {
        size_t part = size - at < QP_HEADER_LIMIT ? size - at : QP_HEADER_LIMIT;
        qp_auto_json json_t *body =
            json_pack("{s:I, s:I, s:I}", "seq", (json_int_t)seq, "bytes", (json_int_t)size, "offset", (json_int_t)at);
        qp_auto_sbuffer msgpack_sbuffer first;
        msgpack_sbuffer_init(&first);
        r = body ? qp_message_pack("header", body, &first, err) : qp_fail_memory(err, 0, "a message");
        if (r == 0)
            r = qp_frame_send(socket, peer, first.data, first.size, true, err);
        if (r == 0)
            r = qp_frame_send(socket, NULL, data + at, part, false, err);
    }
    return r;
}

int qp_long_header_take(struct qp_long_header *header, const json_t *body, const void *part, size_t size,
                        struct qp_error *err)
{
    int64_t seq = json_integer_value(json_object_get(body, "seq"));
    int64_t bytes = json_integer_value(json_object_get(body, "bytes"));
    int64_t offset = json_integer_value(json_object_get(body, "offset"));
    if (bytes > QP_UNIT_HEADER_LIMIT)
        return qp_fail(err, QP_ERR_STAGE, "unit %lld: a header of %lld bytes; at most %d are accepted", (long long)seq,
                       (long long)bytes, QP_UNIT_HEADER_LIMIT);
    bool next = header->at == 0 ? offset == 0
                                : seq == header->seq && (size_t)bytes == header->size && (size_t)offset == header->at;
    if (!next || size == 0 || size > QP_CHUNK_LIMIT || size > (size_t)(bytes - offset))
        return qp_fail(err, QP_ERR_STAGE, "unit %lld: a part of its header at byte %lld that is not the next one",
                       (long long)seq, (long long)offset);
    int r = grow_header(header, size, err);
    if (r < 0)
        return r;
    memcpy(header->data + header->at, part, size);
    header->seq = seq;
    header->size = (size_t)bytes;
    header->at += size;
    return header->at == header->size;
}

void qp_long_header_clear(struct qp_long_header *header)
{
    free(header->data);
    *header = (struct qp_long_header){0};
}
