/* ZeroMQ sockets as quantpipe uses them: no limit by message counts (credit bounds what is on the way), a limit on the
 * size of a frame, a linger time, heartbeats, and routers that take a restarted peer's identity over and fail for an
 * unknown one. All calls are non-blocking. A socket belongs to one thread. */
#ifndef QUANTPIPE_WIRE_SOCKET_H
#define QUANTPIPE_WIRE_SOCKET_H

#include <stdbool.h>
#include <zmq.h>

#include "libstage/base/error.h"

#define QP_FRAME_LIMIT (8 << 20) /* bytes; a peer that sends a larger frame is disconnected */
#define QP_MAX_FRAMES 3          /* of a message, the router's identity frame included */

/* A ZeroMQ context; QP_ERR_STAGE when the library is older than 4.3.3, whose predecessors have known holes. */
int qp_context_new(void **context, struct qp_error *err);

/* A socket of `type` (ZMQ_ROUTER or ZMQ_DEALER), with the routing id `identity` (NULL: none). */
int qp_socket_new(void *context, int type, const char *identity, void **socket, struct qp_error *err);

/* Binds and writes the endpoint that was bound (with its port) into `bound`. */
int qp_socket_bind(void *socket, const char *endpoint, char *bound, size_t size, struct qp_error *err);
int qp_socket_dial(void *socket, const char *endpoint, struct qp_error *err);

/* Closes a socket that was bound at `endpoint` ("": nowhere; a NULL socket is accepted), and removes what ZeroMQ leaves
 * of an ipc endpoint. */
void qp_socket_close(void *socket, const char *endpoint);

struct qp_frames {
    zmq_msg_t frame[QP_MAX_FRAMES];
    int count; /* frames that came; those past QP_MAX_FRAMES are dropped */
};

/* Takes one message off the socket: 1, or 0 when there is none. The caller closes the frames after a 1. */
int qp_frames_receive(void *socket, struct qp_frames *frames, struct qp_error *err);
void qp_frames_close(struct qp_frames *frames);

/* Sends one frame (copied), to the peer `identity` when the socket is a router (NULL otherwise), with `more` frames of
 * the same message to follow. QP_ERR_STAGE when the peer is not there. */
int qp_frame_send(void *socket, const char *identity, const void *data, size_t size, bool more, struct qp_error *err);

#endif
