/* The control channel, as the runner sees it: a ROUTER socket that every stage dials. Bodies are JSON objects here and
 * msgpack maps on the wire; PROTOCOL.md defines each kind's keys.
 *
 * From a stage: hello, ready, progress, busy, waits, report, warning, log, heartbeat, failed, done. To a stage: config,
 * threads, stop, bye.
 */
#ifndef QUANTPIPE_WIRE_CONTROL_H
#define QUANTPIPE_WIRE_CONTROL_H

#include "libstage/base/json.h"

#include "libstage/base/error.h"

#define QP_PROTOCOL_VERSION 1

struct qp_control;

struct qp_control_message {
    char instance[128]; /* name of the stage instance in the pipeline */
    int replica;
    char kind[16];
    json_t *body; /* an object; the receiver's reference */
};

/* Binds. `endpoint`: ipc:///FOLDER/control (the folder is private to the user), or tcp://ADDRESS:0 for a free port. */
int qp_control_open(const char *endpoint, struct qp_control **out, struct qp_error *err);
void qp_control_close(struct qp_control *control); /* NULL is accepted */

/* What stages are told to dial: the endpoint bound, with its port. Borrowed. */
const char *qp_control_endpoint(const struct qp_control *control);

/* File descriptor that becomes readable when there may be messages (ZMQ_FD: edge-triggered; drain with timeout 0). */
int qp_control_fd(const struct qp_control *control);

/* 1 with a message, 0 after `timeout_ms` without one (0: at once; -1: for ever), negative on error. A malformed message
 * of a stage, or one of another protocol version, comes as a `failed` of that stage (code 4, the reason); one of nobody
 * who has a stage's routing id is dropped and counted (qp_control_rejected). */
int qp_control_receive(struct qp_control *control, int timeout_ms, struct qp_control_message *out,
                       struct qp_error *err);
long qp_control_rejected(const struct qp_control *control);

/* Sends to the stage that said hello under this name; `body` is borrowed. QP_ERR_STAGE when there is none. */
int qp_control_send(struct qp_control *control, const char *instance, int replica, const char *kind, const json_t *body,
                    struct qp_error *err);

#define QP_HOST_SIZE 128 /* bytes of an identity with its NUL */

/* Identity of this host as seen by references: processes with equal identities share files' pages and /dev/shm. Into
 * text (at least QP_HOST_SIZE bytes). */
void qp_host_identity(char *text, size_t size);

#endif
