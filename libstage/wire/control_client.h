/* The control channel as a stage sees it: a DEALER that dials the runner. Not thread-safe. */
#ifndef QUANTPIPE_WIRE_CONTROL_CLIENT_H
#define QUANTPIPE_WIRE_CONTROL_CLIENT_H

#include "libstage/base/json.h"
#include <msgpack/sbuffer.h>

#include "libstage/base/error.h"

/* Dials `endpoint` as INSTANCE.REPLICA. */
int qp_client_open(void *context, const char *endpoint, const char *instance, int replica, void **socket,
                   struct qp_error *err);

int qp_client_send(void *socket, const char *kind, const json_t *body, struct qp_error *err);

/* 1 with a message (*kind static, *body a new reference), 0 when there is none. A malformed one is QP_ERR_STAGE. */
int qp_client_receive(void *socket, const char **kind, json_t **body, struct qp_error *err);

#endif
