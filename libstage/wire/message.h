/* Messages: the first frame of each is a msgpack map {kind, body}; PROTOCOL.md defines the kinds, and the tables in
 * message.c hold every reader to it. A key that starts with "x-" may be ignored; any other unknown key is refused. */
#ifndef QUANTPIPE_WIRE_MESSAGE_H
#define QUANTPIPE_WIRE_MESSAGE_H

#include <stddef.h>
#include "libstage/base/json.h"
#include <msgpack/sbuffer.h>

#include "libstage/base/error.h"

#define QP_HEADER_LIMIT (1 << 20)        /* bytes of a header that carries attributes, parameters or a report */
#define QP_UNIT_HEADER_LIMIT (64 << 20)  /* bytes of a unit's header that comes in parts (long_header.h) */
#define QP_SMALL_HEADER_LIMIT (64 << 10) /* bytes of any other header */
#define QP_CHUNK_LIMIT (4 << 20)         /* bytes of a chunk's frame */

enum qp_speaker { QP_FROM_STAGE, QP_FROM_RUNNER, QP_FROM_CONSUMER, QP_FROM_PRODUCER };

/* Reads and checks a header frame. *kind is static; *body a new reference. QP_ERR_STAGE for anything that this speaker
 * may not say. */
int qp_message_unpack(enum qp_speaker speaker, const void *data, size_t size, const char **kind, json_t **body,
                      struct qp_error *err);

/* The same for the header of a unit that came in parts; QP_ERR_STAGE also when it is another message. */
int qp_unit_message_unpack(const void *data, size_t size, json_t **body, struct qp_error *err);

/* Appends {kind, body} to `out`; `body` NULL: an empty one. */
int qp_message_pack(const char *kind, const json_t *body, msgpack_sbuffer *out, struct qp_error *err);

/* Checks a body as qp_message_unpack does. */
int qp_message_check(enum qp_speaker speaker, const char *kind, const json_t *body, struct qp_error *err);

/* Checks an object against a list of fields "name:types", ended by NULL: types are s(tring), i(nteger >= 0), n(umber),
 * b(oolean), o(bject), a(rray), 0 (null), ?(may be absent), *(anything). */
int qp_fields_check(const json_t *object, const char *const *fields, const char *where, struct qp_error *err);

/* A new buffer's worth of one message, for callers that send it at once. */
static inline void qp_cleanup_sbuffer(msgpack_sbuffer *buffer)
{
    msgpack_sbuffer_destroy(buffer);
}
#define qp_auto_sbuffer __attribute__((cleanup(qp_cleanup_sbuffer)))

#endif
