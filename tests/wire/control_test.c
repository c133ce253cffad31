/* The control socket against stages that are well and that are not. */
#include <criterion/criterion.h>
#include <string.h>
#include <zmq.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/control.h"
#include "libstage/wire/control_client.h"
#include "libstage/wire/host.h"
#include "libstage/wire/socket.h"
#include "tests/support/scratch.h"

static struct qp_control *control;
static void *context, *stage;
static struct qp_error err;

static void open_at(const char *endpoint)
{
    cr_assert_eq(qp_control_open(endpoint, &control, &err), 0, "%s", err.message);
    cr_assert_eq(qp_context_new(&context, &err), 0);
    cr_assert_eq(qp_client_open(context, qp_control_endpoint(control), "quantize", 2, &stage, &err), 0);
}

static void setup(void)
{
    scratch_make();
    qp_auto_free char *endpoint = qp_format("ipc://%s", scratch("control"));
    open_at(endpoint);
}

static void teardown(void)
{
    zmq_close(stage);
    zmq_ctx_term(context);
    qp_control_close(control);
    scratch_drop();
}

TestSuite(control, .init = setup, .fini = teardown, .timeout = 60);

static json_t *hello(int protocol)
{
    return json_pack("{s:i, s:s, s:i, s:i, s:s, s:s, s:{}, s:[]}", "protocol", protocol, "stage", "quantize", "version",
                     1, "pid", 1, "host", "h", "hostname", "n", "endpoints", "gpus");
}

static void send_message(const char *kind, json_t *body)
{
    qp_auto_json json_t *owned = body;
    cr_assert_eq(qp_client_send(stage, kind, owned, &err), 0, "%s", err.message);
}

static json_t *expect(const char *kind)
{
    struct qp_control_message message;
    cr_assert_eq(qp_control_receive(control, 10000, &message, &err), 1, "%s did not come", kind);
    cr_expect_str_eq(message.kind, kind);
    cr_expect_str_eq(message.instance, "quantize");
    cr_expect_eq(message.replica, 2);
    return message.body;
}

Test(control, both_sides_receive_each_other)
{
    send_message("hello", hello(QP_PROTOCOL_VERSION));
    qp_auto_json json_t *body = expect("hello");
    qp_auto_json json_t *sent = hello(QP_PROTOCOL_VERSION);
    cr_expect(json_equal(body, sent));
    cr_assert_eq(qp_control_send(control, "quantize", 2, "stop", NULL, &err), 0, "%s", err.message);
    const char *kind;
    qp_auto_json json_t *received = NULL;
    zmq_pollitem_t item = {.socket = stage, .events = ZMQ_POLLIN};
    cr_assert_eq(zmq_poll(&item, 1, 10000), 1);
    cr_assert_eq(qp_client_receive(stage, &kind, &received, &err), 1);
    cr_expect_str_eq(kind, "stop");
}

Test(control, silence_times_out)
{
    struct qp_control_message message;
    cr_expect_eq(qp_control_receive(control, 0, &message, &err), 0);
    cr_expect_eq(qp_control_receive(control, 20, &message, &err), 0);
}

static void expect_refusal(const char *why)
{
    qp_auto_json json_t *body = expect("failed");
    const char *message = json_string_value(json_object_get(body, "message"));
    cr_expect_eq(json_integer_value(json_object_get(body, "code")), 4);
    cr_expect(strstr(message, "the stage sent a message that was refused: "), "%s", message);
    cr_expect(strstr(message, why), "expected '%s' in '%s'", why, message);
}

Test(control, a_refused_message_is_a_failure_of_that_stage)
{
    cr_assert_eq(qp_frame_send(stage, NULL, "\xc1", 1, false, &err), 0);
    expect_refusal("malformed message");
    cr_assert_eq(qp_frame_send(stage, NULL, "a", 1, true, &err), 0);
    cr_assert_eq(qp_frame_send(stage, NULL, "b", 1, false, &err), 0);
    expect_refusal("2 frames; expected one");
    send_message("hello", json_object());
    expect_refusal("hello: the key protocol is missing");
    send_message("config", json_object());
    expect_refusal("a message of unknown kind config");
    send_message("ready", json_pack("{s:i, s:i}", "x-mine", 1, "mine", 1));
    expect_refusal("ready: the key mine is not known to this version");
    send_message("progress", json_pack("{s:s, s:i}", "done", "all", "total", 1));
    expect_refusal("progress: the key done has the wrong type: found a string, expected an integer at least 0");
    send_message("progress", json_pack("{s:i, s:i}", "done", -1, "total", 1));
    expect_refusal("found -1, expected an integer at least 0");
    send_message("ready", json_pack("{s:i}", "x-mine", 1));
    json_decref(expect("ready"));
    cr_expect_eq(qp_control_rejected(control), 0);
}

Test(control, strange_names_are_refused)
{
    static const char *const names[] = {"x", ".1", "x.", "x.-1", "x.1y", "x.99999999999999999999"};
    struct qp_control_message message;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        void *other;
        cr_assert_eq(qp_socket_new(context, ZMQ_DEALER, names[i], &other, &err), 0);
        cr_assert_eq(qp_socket_dial(other, qp_control_endpoint(control), &err), 0);
        cr_assert_eq(qp_client_send(other, "ready", NULL, &err), 0);
        zmq_close(other);
    }
    for (int i = 0; i < 100 && qp_control_rejected(control) < 6; i++)
        cr_expect_eq(qp_control_receive(control, 50, &message, &err), 0);
    cr_expect_eq(qp_control_rejected(control), 6);
}

Test(control, another_version_is_a_failure_of_that_stage)
{
    send_message("hello", hello(QP_PROTOCOL_VERSION + 1));
    qp_auto_json json_t *body = expect("failed");
    cr_expect_eq(json_integer_value(json_object_get(body, "code")), 4);
    cr_expect(strstr(json_string_value(json_object_get(body, "message")), "protocol version 2"));
}

Test(control, nobody_of_that_name)
{
    cr_expect_eq(qp_control_send(control, "nobody", 0, "stop", NULL, &err), QP_ERR_STAGE);
    cr_expect(strstr(err.message, "nobody.0"), "%s", err.message);
}

Test(control, nonsense_is_not_sent)
{
    qp_auto_json json_t *body = json_pack("{s:i}", "x", 1);
    send_message("ready", json_object());
    json_decref(expect("ready"));
    cr_expect_eq(qp_control_send(control, "quantize", 2, "config", body, &err), QP_ERR_STAGE);
}

Test(control, a_socket_path_has_a_limit)
{
    char endpoint[256];
    struct qp_control *other;
    snprintf(endpoint, sizeof endpoint, "ipc:///tmp/%0120d/control", 0);
    cr_expect_eq(qp_control_open(endpoint, &other, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "shorter name"), "%s", err.message);
}

Test(control, tcp_gets_a_free_port)
{
    teardown();
    scratch_make();
    open_at("tcp://127.0.0.1:0");
    cr_expect_eq(strncmp(qp_control_endpoint(control), "tcp://127.0.0.1:", 16), 0);
    send_message("ready", json_object());
    json_decref(expect("ready"));
    char address[64];
    cr_expect_eq(qp_host_address_towards(qp_control_endpoint(control), address, sizeof address, &err), 0);
    cr_expect_str_eq(address, "127.0.0.1");
}
