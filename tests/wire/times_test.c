/* Time limits of the wire. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "libstage/wire/socket.h"
#include "libstage/wire/times.h"
#include "tests/support/scratch.h"

TestSuite(times, .init = scratch_make, .fini = scratch_drop);

static int heartbeat_of(void *socket)
{
    int value = -1;
    size_t size = sizeof value;
    cr_assert_eq(zmq_getsockopt(socket, ZMQ_HEARTBEAT_IVL, &value, &size), 0);
    return value;
}

/* A connection within a host is not cut because a debugger holds one of its ends. */
Test(times, connections_have_heartbeats_between_hosts_alone)
{
    static const struct {
        const char *endpoint;
        int heartbeat;
    } rows[] = {{"ipc://%s", 0}, {"tcp://127.0.0.1:*", QP_TCP_HEARTBEAT_MS}};
    for (size_t i = 0; i < 2; i++) {
        struct qp_error err;
        char endpoint[256], bound[256];
        void *context, *server, *client;
        snprintf(endpoint, sizeof endpoint, rows[i].endpoint, scratch("s"));
        cr_assert_eq(qp_context_new(&context, &err), 0);
        cr_assert_eq(qp_socket_new(context, ZMQ_ROUTER, NULL, &server, &err), 0);
        cr_assert_eq(qp_socket_new(context, ZMQ_DEALER, "a", &client, &err), 0);
        cr_assert_eq(qp_socket_bind(server, endpoint, bound, sizeof bound, &err), 0, "%s", err.message);
        cr_assert_eq(qp_socket_dial(client, bound, &err), 0, "%s", err.message);
        cr_expect_eq(heartbeat_of(server), rows[i].heartbeat);
        cr_expect_eq(heartbeat_of(client), rows[i].heartbeat);
        qp_socket_close(client, "");
        qp_socket_close(server, bound);
        zmq_ctx_term(context);
    }
}
