#include "libstage/wire/control_client.h"

#include <stdio.h>

#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"

int qp_client_open(void *context, const char *endpoint, const char *instance, int replica, void **socket,
                   struct qp_error *err)
{
    char identity[256];
    snprintf(identity, sizeof identity, "%s.%d", instance, replica);
    int r = qp_socket_new(context, ZMQ_DEALER, identity, socket, err);
    if (r < 0)
        return r;
    r = qp_socket_dial(*socket, endpoint, err);
    if (r < 0) {
        zmq_close(*socket);
        *socket = NULL;
    }
    return r;
}

int qp_client_send(void *socket, const char *kind, const json_t *body, struct qp_error *err)
{
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    int r = qp_message_pack(kind, body, &buffer, err);
    return r < 0 ? r : qp_frame_send(socket, NULL, buffer.data, buffer.size, false, err);
}

int qp_client_receive(void *socket, const char **kind, json_t **body, struct qp_error *err)
{
    struct qp_frames frames;
    int r = qp_frames_receive(socket, &frames, err);
    if (r <= 0)
        return r;
    r = frames.count == 1 ? qp_message_unpack(QP_FROM_RUNNER, zmq_msg_data(&frames.frame[0]),
                                              zmq_msg_size(&frames.frame[0]), kind, body, err)
                          : qp_fail(err, QP_ERR_STAGE, "a message of %d frames; expected one", frames.count);
    qp_frames_close(&frames);
    return r < 0 ? r : 1;
}
