#include "libstage/wire/socket.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "libstage/wire/times.h"

#if defined(__SANITIZE_THREAD__)
/* libzmq is not instrumented: ThreadSanitizer cannot see how it hands messages from thread to thread. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:libzmq.so\nrace:libzmq.so\n";
}
#endif

static int fail(struct qp_error *err, const char *what, const char *where)
{
    return qp_fail(err, QP_ERR_STAGE, "%s: cannot %s: %s", where, what, zmq_strerror(zmq_errno()));
}

int qp_context_new(void **context, struct qp_error *err)
{
    int major, minor, patch;
    zmq_version(&major, &minor, &patch);
    if (major * 10000 + minor * 100 + patch < 40303)
        return qp_fail(err, QP_ERR_STAGE, "libzmq %d.%d.%d is installed; 4.3.3 or newer is needed", major, minor,
                       patch);
    *context = zmq_ctx_new();
    return *context ? 0 : fail(err, "make a context", "ZeroMQ");
}

static int set(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

static int configure(void *socket, int type, const char *identity)
{
    int64_t frame_limit = QP_FRAME_LIMIT;
    int r = set(socket, ZMQ_LINGER, QP_LINGER_MS) | set(socket, ZMQ_SNDHWM, 0) | set(socket, ZMQ_RCVHWM, 0) |
            set(socket, ZMQ_HANDSHAKE_IVL, QP_HANDSHAKE_MS) |
            zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &frame_limit, sizeof frame_limit);
    if (type == ZMQ_ROUTER)
        r |= set(socket, ZMQ_ROUTER_MANDATORY, 1) | set(socket, ZMQ_ROUTER_HANDOVER, 1);
    if (identity)
        r |= zmq_setsockopt(socket, ZMQ_ROUTING_ID, identity, strlen(identity));
    return r;
}

int qp_socket_new(void *context, int type, const char *identity, void **socket, struct qp_error *err)
{
    void *s = zmq_socket(context, type);
    if (!s)
        return fail(err, "make a socket", "ZeroMQ");
    if (configure(s, type, identity) != 0) {
        int r = fail(err, "set up a socket", identity ? identity : "ZeroMQ");
        zmq_close(s);
        return r;
    }
    *socket = s;
    return 0;
}

/* Between hosts the connection itself has a heartbeat. */
static int watch_connection(void *socket, const char *endpoint, struct qp_error *err)
{
    if (strncmp(endpoint, "tcp://", 6) != 0)
        return 0;
    if ((set(socket, ZMQ_HEARTBEAT_IVL, QP_TCP_HEARTBEAT_MS) | set(socket, ZMQ_HEARTBEAT_TIMEOUT, QP_TCP_LOST_MS)) != 0)
        return fail(err, "set up a socket", endpoint);
    return 0;
}

int qp_socket_bind(void *socket, const char *endpoint, char *bound, size_t size, struct qp_error *err)
{
    const size_t longest = 107; /* sockaddr_un.sun_path, less its NUL */
    if (strncmp(endpoint, "ipc://", 6) == 0 && strlen(endpoint + 6) > longest)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: a socket's path may have %zu bytes, this one has %zu; use a folder with a shorter name",
                       endpoint, longest, strlen(endpoint + 6));
    int r = watch_connection(socket, endpoint, err);
    if (r < 0)
        return r;
    if (zmq_bind(socket, endpoint) != 0)
        return fail(err, "listen", endpoint);
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, bound, &size) != 0)
        return fail(err, "learn the endpoint", endpoint);
    return 0;
}

int qp_socket_dial(void *socket, const char *endpoint, struct qp_error *err)
{
    int r = watch_connection(socket, endpoint, err);
    return r < 0 || zmq_connect(socket, endpoint) == 0 ? r : fail(err, "connect", endpoint);
}

void qp_socket_close(void *socket, const char *endpoint)
{
    if (!socket)
        return;
    zmq_close(socket);
    if (strncmp(endpoint, "ipc://", 6) == 0)
        unlink(endpoint + 6);
}

/* One frame, or -1 with errno; a signal is no reason to give up. */
static int receive_frame(void *socket, zmq_msg_t *frame)
{
    zmq_msg_init(frame);
    int n;
    do
        n = zmq_msg_recv(frame, socket, ZMQ_DONTWAIT);
    while (n < 0 && zmq_errno() == EINTR);
    if (n < 0)
        zmq_msg_close(frame);
    return n;
}

int qp_frames_receive(void *socket, struct qp_frames *frames, struct qp_error *err)
{
    frames->count = 0;
    for (bool more = true; more;) {
        zmq_msg_t frame;
        if (receive_frame(socket, &frame) < 0) {
            int cause = zmq_errno();
            qp_frames_close(frames);
            frames->count = 0;
            return cause == EAGAIN ? 0 : qp_fail(err, QP_ERR_STAGE, "cannot receive: %s", zmq_strerror(cause));
        }
        more = zmq_msg_more(&frame);
        if (frames->count < QP_MAX_FRAMES)
            frames->frame[frames->count] = frame;
        else
            zmq_msg_close(&frame);
        if (frames->count <= QP_MAX_FRAMES)
            frames->count++;
    }
    return 1;
}

void qp_frames_close(struct qp_frames *frames)
{
    for (int i = 0; i < frames->count && i < QP_MAX_FRAMES; i++)
        zmq_msg_close(&frames->frame[i]);
}

static int send_bytes(void *socket, const void *data, size_t size, int flags)
{
    int n;
    do
        n = zmq_send(socket, data, size, flags | ZMQ_DONTWAIT);
    while (n < 0 && zmq_errno() == EINTR);
    return n;
}

int qp_frame_send(void *socket, const char *identity, const void *data, size_t size, bool more, struct qp_error *err)
{
    if (identity && send_bytes(socket, identity, strlen(identity), ZMQ_SNDMORE) < 0)
        return fail(err, "send", identity);
    if (send_bytes(socket, data, size, more ? ZMQ_SNDMORE : 0) < 0)
        return fail(err, "send", identity ? identity : "ZeroMQ");
    return 0;
}
