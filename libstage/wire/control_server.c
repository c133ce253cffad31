#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/control.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"

struct qp_control {
    void *context, *socket;
    char endpoint[256];
    long rejected;
};

int qp_control_open(const char *endpoint, struct qp_control **out, struct qp_error *err)
{
    struct qp_control *control = calloc(1, sizeof *control);
    if (!control)
        return qp_fail_memory(err, sizeof *control, "the control socket");
    int r = qp_context_new(&control->context, err);
    if (r == 0)
        r = qp_socket_new(control->context, ZMQ_ROUTER, NULL, &control->socket, err);
    if (r == 0)
        r = qp_socket_bind(control->socket, endpoint, control->endpoint, sizeof control->endpoint, err);
    if (r < 0) {
        qp_control_close(control);
        return r;
    }
    *out = control;
    return 0;
}

void qp_control_close(struct qp_control *control)
{
    if (!control)
        return;
    qp_socket_close(control->socket, control->endpoint);
    if (control->context)
        zmq_ctx_term(control->context);
    free(control);
}

const char *qp_control_endpoint(const struct qp_control *control)
{
    return control->endpoint;
}

int qp_control_fd(const struct qp_control *control)
{
    int fd = -1;
    size_t size = sizeof fd;
    zmq_getsockopt(control->socket, ZMQ_FD, &fd, &size);
    return fd;
}

long qp_control_rejected(const struct qp_control *control)
{
    return control->rejected;
}

/* The routing id of a stage is INSTANCE.REPLICA. */
static bool read_identity(const void *data, size_t size, struct qp_control_message *out)
{
    char text[160];
    if (size >= sizeof text || memchr(data, '\0', size))
        return false;
    memcpy(text, data, size);
    text[size] = '\0';
    char *dot = strrchr(text, '.'), *end = NULL;
    if (!dot || dot == text || dot - text >= (ptrdiff_t)sizeof out->instance || dot[1] < '0' || dot[1] > '9')
        return false;
    errno = 0;
    long replica = strtol(dot + 1, &end, 10);
    if (errno != 0 || *end || replica > 1 << 20)
        return false;
    *dot = '\0';
    strcpy(out->instance, text);
    out->replica = (int)replica;
    return true;
}

/* What a stage has sent becomes its failure; takes over the message's body. */
static void make_failure(struct qp_control_message *message, const char *text)
{
    json_decref(message->body);
    message->body = json_pack("{s:i, s:s, s:n}", "code", -QP_ERR_STAGE, "message", text, "seq");
    strcpy(message->kind, "failed");
}

static void judge_version(struct qp_control_message *message)
{
    json_int_t version = json_integer_value(json_object_get(message->body, "protocol"));
    if (strcmp(message->kind, "hello") != 0 || version == QP_PROTOCOL_VERSION)
        return;
    char text[160];
    snprintf(text, sizeof text,
             "the stage speaks protocol version %lld and the runner version %d; build both from one source",
             (long long)version, QP_PROTOCOL_VERSION);
    make_failure(message, text);
}

/* A stage whose message is refused waits for ever for what that was to bring about, or has told something that nobody
 * knows now: the runner learns of it as a failure of that stage. Without an identity nobody knows whose it is. */
static bool read_message(struct qp_frames *frames, struct qp_control_message *out)
{
    const char *kind;
    struct qp_error why = {0};
    out->body = NULL;
    if (frames->count < 2 || !read_identity(zmq_msg_data(&frames->frame[0]), zmq_msg_size(&frames->frame[0]), out))
        return false;
    int r = frames->count == 2 ? qp_message_unpack(QP_FROM_STAGE, zmq_msg_data(&frames->frame[1]),
                                                   zmq_msg_size(&frames->frame[1]), &kind, &out->body, &why)
                               : qp_fail(&why, QP_ERR_STAGE, "%d frames; expected one", frames->count - 1);
    if (r < 0) {
        char text[QP_ERROR_SIZE + 64];
        snprintf(text, sizeof text, "the stage sent a message that was refused: %s", why.message);
        make_failure(out, text);
        return out->body != NULL;
    }
    snprintf(out->kind, sizeof out->kind, "%s", kind);
    judge_version(out);
    return out->body != NULL;
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

int qp_control_receive(struct qp_control *control, int timeout_ms, struct qp_control_message *out, struct qp_error *err)
{
    long until = now_ms() + timeout_ms;
    for (;;) {
        struct qp_frames frames;
        int r = qp_frames_receive(control->socket, &frames, err);
        if (r < 0)
            return r;
        if (r == 1) {
            bool good = read_message(&frames, out);
            qp_frames_close(&frames);
            if (good)
                return 1;
            control->rejected++;
            continue;
        }
        long left = timeout_ms < 0 ? -1 : until - now_ms();
        if (timeout_ms >= 0 && left <= 0)
            return 0;
        zmq_pollitem_t item = {.socket = control->socket, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, left) < 0 && zmq_errno() == EINTR)
            return 0; /* the caller may want to look at what the signal said */
    }
}

int qp_control_send(struct qp_control *control, const char *instance, int replica, const char *kind, const json_t *body,
                    struct qp_error *err)
{
    char identity[160];
    snprintf(identity, sizeof identity, "%s.%d", instance, replica);
    qp_auto_json json_t *empty = json_object();
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    int r = qp_message_check(QP_FROM_RUNNER, kind, body ? body : empty, err);
    if (r == 0)
        r = qp_message_pack(kind, body, &buffer, err);
    if (r == 0)
        r = qp_frame_send(control->socket, identity, buffer.data, buffer.size, false, err);
    return r < 0 ? qp_wrap(err, "%s to stage %s.%d", kind, instance, replica) : 0;
}
