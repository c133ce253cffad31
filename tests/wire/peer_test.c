/* Peers that break the protocol: raw sockets against each end of an edge. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <string.h>
#include <zmq.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/codec.h"
#include "libstage/wire/message.h"
#include "libstage/wire/socket.h"
#include "tests/support/edges.h"
#include "tests/support/scratch.h"

static struct edges edges;
static void *raw; /* the peer's socket */

static void dial_port(const char *identity)
{
    struct qp_error err;
    scratch_make();
    qp_auto_free char *endpoint = qp_format("ipc://%s", scratch("port"));
    edges_open(&edges, endpoint, scratch(""));
    cr_assert_eq(qp_socket_new(edges.context, ZMQ_DEALER, identity, &raw, &err), 0);
    cr_assert_eq(qp_socket_dial(raw, endpoint, &err), 0);
}

static void setup_stranger(void)
{
    dial_port("stranger");
}

static void setup_consumer(void)
{
    dial_port("a->b/0");
}

/* A new consumer of the raw router. */
static void dial_again(void)
{
    struct qp_error err;
    char endpoint[128];
    size_t size = sizeof endpoint;
    zmq_getsockopt(raw, ZMQ_LAST_ENDPOINT, endpoint, &size);
    if (edges.in) {
        qp_in_close_socket(edges.in);
        qp_in_free(edges.in);
    }
    struct qp_in_config config = {.run = EDGES_RUN,
                                  .edge = "a->b",
                                  .instance = "b",
                                  .host = "h",
                                  .endpoint = endpoint,
                                  .local = true,
                                  .window_units = 3,
                                  .window_bytes = 1000,
                                  .references = edges.references,
                                  .wake = edges.wake};
    cr_assert_eq(qp_in_open(edges.context, &config, &edges.in, &err), 0, "%s", err.message);
}

/* The port is a raw router; edges.out exists, but nobody dials it. */
static void setup_producer(void)
{
    struct qp_error err;
    char bound[128];
    scratch_make();
    qp_auto_free char *unused = qp_format("ipc://%s", scratch("unused"));
    qp_auto_free char *endpoint = qp_format("ipc://%s", scratch("port"));
    edges_open(&edges, unused, scratch(""));
    cr_assert_eq(qp_socket_new(edges.context, ZMQ_ROUTER, NULL, &raw, &err), 0);
    cr_assert_eq(qp_socket_bind(raw, endpoint, bound, sizeof bound, &err), 0);
    dial_again();
}

static void teardown(void)
{
    zmq_close(raw);
    edges_close(&edges);
    scratch_drop();
}

TestSuite(stranger, .init = setup_stranger, .fini = teardown, .timeout = 60);
TestSuite(strange_consumer, .init = setup_consumer, .fini = teardown, .timeout = 60);
TestSuite(strange_producer, .init = setup_producer, .fini = teardown, .timeout = 60);

static void pack(const char *text, msgpack_sbuffer *buffer)
{
    json_error_t where;
    qp_auto_json json_t *value = json_loads(text, 0, &where);
    cr_assert_not_null(value, "%s: %s", text, where.text);
    msgpack_sbuffer_init(buffer);
    cr_assert_eq(qp_codec_pack(value, buffer, NULL), 0);
}

/* ---- against a producer ---- */

static void send_message(const char *text)
{
    qp_auto_sbuffer msgpack_sbuffer buffer;
    pack(text, &buffer);
    cr_assert_eq(qp_frame_send(raw, NULL, buffer.data, buffer.size, false, NULL), 0);
}

static long wanted_rejections;

static bool enough_rejected(const struct edges *e)
{
    const char *why;
    return qp_out_rejected(e->out, &why) >= wanted_rejections;
}

static void expect_rejected(long count, const char *reason)
{
    const char *why;
    wanted_rejections = count;
    cr_assert(edges_poll(&edges, enough_rejected), "%s was not refused", reason);
    cr_expect_eq(qp_out_rejected(edges.out, &why), count);
    cr_expect(strstr(why, reason), "expected '%s' in '%s'", reason, why);
}

#define HELLO(protocol, run, edge)                                                                          \
    "{\"kind\": \"hello\", \"body\": {\"protocol\": " #protocol ", \"run\": \"" run "\", \"edge\": \"" edge \
    "\", \"instance\": \"b\", \"replica\": 0, \"host\": \"x\"}}"

Test(stranger, is_refused_and_counted)
{
    send_message(HELLO(2, "testrun", "a->b"));
    expect_rejected(1, "protocol version 2");
    send_message(HELLO(1, "otherrun", "a->b"));
    expect_rejected(2, "another run");
    send_message(HELLO(1, "testrun", "a->c"));
    expect_rejected(3, "does not leave here");
    send_message("{\"kind\": \"credit\", \"body\": {\"bytes\": 1, \"units\": 1}}");
    expect_rejected(4, "has not sent hello");
    cr_assert_eq(qp_frame_send(raw, NULL, "garbage", 7, false, NULL), 0);
    expect_rejected(5, "more bytes after");
    cr_assert_eq(qp_frame_send(raw, NULL, "", 0, false, NULL), 0);
    expect_rejected(6, "ends too early");
    for (int i = 0; i < 5; i++)
        cr_assert_eq(qp_frame_send(raw, NULL, "x", 1, i < 4, NULL), 0);
    expect_rejected(7, "frames");
    cr_expect(strlen(edges.error.message) == 0, "a stranger is no reason to fail");
}

static bool never(const struct edges *e)
{
    (void)e;
    return false;
}

/* The port fails of what its own consumer has sent, and names the edge. */
static void expect_refused(const char *reason)
{
    cr_assert_not(edges_poll(&edges, never));
    cr_expect(strstr(edges.error.message, "edge a->b: a message of its consumer was refused: "), "%s",
              edges.error.message);
    cr_expect(strstr(edges.error.message, reason), "expected '%s' in '%s'", reason, edges.error.message);
    cr_expect_eq(edges.error.code, QP_ERR_STAGE);
}

Test(strange_consumer, of_another_version)
{
    send_message(HELLO(2, "testrun", "a->b"));
    expect_refused("protocol version 2");
}

Test(strange_consumer, of_another_run)
{
    send_message(HELLO(1, "otherrun", "a->b"));
    expect_refused("another run (otherrun)");
}

Test(strange_consumer, of_another_edge)
{
    send_message(HELLO(1, "testrun", "a->c"));
    expect_refused("an edge a->c that does not leave here");
}

Test(strange_consumer, without_hello)
{
    send_message("{\"kind\": \"credit\", \"body\": {\"bytes\": 1, \"units\": 1}}");
    expect_refused("credit from a consumer that has not sent hello");
}

Test(strange_consumer, with_an_unknown_key)
{
    send_message("{\"kind\": \"credit\", \"body\": {\"bytes\": 1, \"units\": 1, \"days\": 30}}");
    expect_refused("credit: the key days is not known to this version");
}

Test(strange_consumer, that_grants_without_bounds)
{
    send_message(HELLO(1, "testrun", "a->b"));
    send_message("{\"kind\": \"credit\", \"body\": {\"bytes\": 9223372036854775807, \"units\": 1}}");
    send_message("{\"kind\": \"credit\", \"body\": {\"bytes\": 9223372036854775807, \"units\": 1}}");
    expect_refused("credit without bounds");
}

Test(stranger, does_not_keep_a_good_one_out)
{
    cr_assert_eq(qp_frame_send(raw, NULL, "garbage", 7, false, NULL), 0);
    expect_rejected(1, "more bytes after");
    zmq_close(raw);
    raw = NULL;
    edges_dial(&edges, false, 3, 1000);
    cr_assert_eq(qp_out_push(edges.out, edges_unit(QP_UNIT_MODEL, 0, 10, NULL), NULL, NULL), 0);
    qp_unit_free(edges_take(&edges, 0));
    cr_expect(edges_poll(&edges, edges_all_acknowledged));
    cr_assert_eq(qp_socket_new(edges.context, ZMQ_DEALER, "x", &raw, NULL), 0);
}

/* ---- against a consumer ---- */

/* What the consumer said next; the text is freed by the caller. */
static char *received(void)
{
    struct qp_frames frames;
    zmq_pollitem_t item = {.socket = raw, .events = ZMQ_POLLIN};
    cr_assert_eq(zmq_poll(&item, 1, 10000), 1, "the consumer is silent");
    cr_assert_eq(qp_frames_receive(raw, &frames, NULL), 1);
    cr_assert_eq(frames.count, 2);
    const char *kind;
    qp_auto_json json_t *body = NULL;
    cr_assert_eq(qp_message_unpack(QP_FROM_CONSUMER, zmq_msg_data(&frames.frame[1]), zmq_msg_size(&frames.frame[1]),
                                   &kind, &body, NULL),
                 0);
    qp_frames_close(&frames);
    qp_auto_free char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
    return qp_format("%s %s", kind, text);
}

static void expect_received(const char *wanted)
{
    qp_auto_free char *text = received();
    cr_expect(strncmp(text, wanted, strlen(wanted)) == 0, "expected '%s', received '%s'", wanted, text);
}

static void tell_bytes(const void *data, size_t size, const char *chunk)
{
    cr_assert_eq(qp_frame_send(raw, "a->b/0", data, size, chunk != NULL, NULL), 0);
    if (chunk)
        cr_assert_eq(qp_frame_send(raw, NULL, chunk, strlen(chunk), false, NULL), 0);
}

static void tell(const char *text, const char *chunk)
{
    qp_auto_sbuffer msgpack_sbuffer buffer;
    pack(text, &buffer);
    tell_bytes(buffer.data, buffer.size, chunk);
}

/* Passes over what comes before a message that begins like this. */
static void pass_over_until(const char *wanted)
{
    bool found = false;
    while (!found) {
        qp_auto_free char *text = received();
        found = strncmp(text, wanted, strlen(wanted)) == 0;
    }
}

/* A new consumer's hello and credit. Messages of a former one, on another connection, come before them and between. */
static void greet(void)
{
    pass_over_until("hello {\"edge\":\"a->b\"");
    pass_over_until("credit {\"bytes\":1000,\"units\":3}");
}

static void expect_failure(const char *why)
{
    cr_assert_not(edges_poll(&edges, edges_has_unit), "'%s' did not happen", why);
    cr_expect(strstr(edges.error.message, why), "expected '%s' in '%s'", why, edges.error.message);
    cr_expect_eq(edges.error.code, QP_ERR_STAGE);
}

#define UNIT(kind, seq, units, tensors)                                                             \
    "{\"kind\": \"unit\", \"body\": {\"kind\": \"" kind "\", \"seq\": " #seq ", \"units\": " #units \
    ", \"attrs\": {}, \"tensors\": [" tensors "]}}"
#define TENSOR(name, dtype, shape, where, path, bytes)                                             \
    "{\"name\": \"" name "\", \"dtype\": \"" dtype "\", \"shape\": " shape ", \"where\": \"" where \
    "\", \"path\": " path ", \"offset\": 0, \"bytes\": " #bytes "}"
#define FOUR_BYTES TENSOR("t", "U8", "[4]", "inline", "null", 4)
#define CHUNK(seq, tensor, offset) \
    "{\"kind\": \"chunk\", \"body\": {\"seq\": " #seq ", \"tensor\": " #tensor ", \"offset\": " #offset "}}"

Test(strange_producer, duplicates_are_dropped_and_acknowledged_again)
{
    greet();
    tell(UNIT("model", 0, 0, FOUR_BYTES), NULL);
    tell(CHUNK(0, 0, 0), "ab");
    tell(CHUNK(0, 0, 2), "cd");
    qp_auto_unit struct qp_unit *unit = edges_take(&edges, 0);
    cr_expect_eq(memcmp(qp_unit_find(unit, "t")->data, "abcd", 4), 0);
    edges_poll_for(&edges, 20);
    expect_received("ack {\"seq\":0}");
    expect_received("credit {\"bytes\":4,\"units\":1}");
    tell(UNIT("model", 0, 1, FOUR_BYTES), NULL);
    tell(CHUNK(0, 0, 0), "abcd");
    edges_poll_for(&edges, 50);
    cr_expect_not(edges_has_unit(&edges));
    cr_expect_eq(edges_count(&edges, false, "duplicates"), 1);
    expect_received("ack {\"seq\":0}");
    expect_received("credit {\"bytes\":4,\"units\":1}");
}

#define BLOCK(seq, units, attrs)                                                                                       \
    "{\"kind\": \"unit\", \"body\": {\"kind\": \"block\", \"seq\": " #seq ", \"units\": " #units ", \"attrs\": " attrs \
    ", \"tensors\": []}}"
#define END(seq, units, attrs)                                                                                       \
    "{\"kind\": \"unit\", \"body\": {\"kind\": \"end\", \"seq\": " #seq ", \"units\": " #units ", \"attrs\": " attrs \
    ", \"tensors\": []}}"

/* A model unit that announces two blocks, and what comes after it. */
static void expect_order(const char *first, const char *then, const char *why)
{
    greet();
    tell("{\"kind\": \"unit\", \"body\": {\"kind\": \"model\", \"seq\": 0, \"units\": 0, "
         "\"attrs\": {\"blocks\": 2}, \"tensors\": []}}",
         NULL);
    qp_unit_free(edges_take(&edges, 0));
    tell(first, NULL);
    if (then) {
        qp_unit_free(edges_take(&edges, 1));
        tell(then, NULL);
    }
    expect_failure(why);
    edges.error = (struct qp_error){0};
    dial_again();
}

Test(strange_producer, a_block_that_is_missing_comes_twice_or_is_none)
{
    expect_order(BLOCK(2, 1, "{}"), NULL, "unit 2: unit 2 came after unit 0: unit 1 is missing");
    expect_order(BLOCK(4, 1, "{}"), NULL, "units 1 to 3 are missing");
    expect_order(BLOCK(1, 1, "{\"block\": 2}"), NULL, "block 2 came after block 0: block 1 is missing");
    expect_order(BLOCK(1, 1, "{}"), BLOCK(2, 2, "{\"block\": 1}"), "block 1 came twice");
    expect_order(BLOCK(1, 1, "{\"step\": 1}"), BLOCK(2, 2, "{\"block\": 1, \"step\": 1}"), "block 1 came twice");
    expect_order(BLOCK(1, 1, "{}"), BLOCK(2, 2, "{\"block\": 3}"), "it is block 3 of a model of 2");
    expect_order(BLOCK(1, 1, "{}"), END(2, 2, "{}"), "the end came after block 1 of 2: 1 missing");
}

Test(strange_producer, blocks_in_steps_and_their_number)
{
    greet();
    tell("{\"kind\": \"unit\", \"body\": {\"kind\": \"model\", \"seq\": 0, \"units\": 0, "
         "\"attrs\": {\"blocks\": 1}, \"tensors\": []}}",
         NULL);
    qp_unit_free(edges_take(&edges, 0));
    tell(BLOCK(1, 1, "{\"block\": 1, \"step\": 1}"), NULL);
    qp_unit_free(edges_take(&edges, 1));
    tell(BLOCK(2, 2, "{\"block\": 1, \"step\": 2}"), NULL);
    qp_unit_free(edges_take(&edges, 2));
    tell(END(3, 3, "{\"blocks\": 2}"), NULL);
    expect_failure("the end counts 2 blocks, the model has 1");
}

Test(strange_producer, a_lost_unit_is_noticed)
{
    greet();
    tell(UNIT("model", 0, 0, ""), NULL);
    qp_unit_free(edges_take(&edges, 0));
    tell(UNIT("end", 2, 2, ""), NULL);
    expect_failure("2 units were sent before it, 1 have come: some are lost");
}

#define PART(seq, bytes, offset) \
    "{\"kind\": \"header\", \"body\": {\"seq\": " #seq ", \"bytes\": " #bytes ", \"offset\": " #offset "}}"

Test(strange_producer, a_header_in_parts)
{
    static const struct {
        const char *first, *then, *why;
    } wrong[] = {{PART(0, 100, 1), NULL, "a part of its header at byte 1 that is not the next one"},
                 {PART(0, 2, 0), NULL, "a part of its header at byte 0 that is not the next one"},
                 {PART(0, 70000000, 0), NULL, "a header of 70000000 bytes; at most 67108864"},
                 {PART(0, 4, 0), NULL, "malformed message"},
                 {PART(0, 100, 0), PART(0, 100, 3), "at byte 3 that is not the next one"},
                 {PART(0, 100, 0), PART(1, 100, 4), "at byte 4 that is not the next one"},
                 {PART(0, 100, 0), PART(0, 101, 4), "at byte 4 that is not the next one"},
                 {PART(0, 100, 0), CHUNK(0, 0, 0), "a chunk before all parts of the header of unit 0"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        greet();
        tell(wrong[i].first, "abcd");
        if (wrong[i].then)
            tell(wrong[i].then, "efgh");
        expect_failure(wrong[i].why);
        dial_again();
    }
}

Test(strange_producer, chunks_have_an_order)
{
    greet();
    tell(UNIT("model", 0, 0, FOUR_BYTES), NULL);
    tell(CHUNK(0, 0, 2), "cd");
    expect_failure("not the next one");
}

Test(strange_producer, chunks_without_a_unit)
{
    greet();
    tell(CHUNK(0, 0, 0), "cd");
    expect_failure("not the next one");
}

Test(strange_producer, chunks_stay_inside_their_tensor)
{
    greet();
    tell(UNIT("model", 0, 0, FOUR_BYTES), NULL);
    tell(CHUNK(0, 0, 0), "abcde");
    expect_failure("a chunk of 5 bytes at byte 0 of 4");
}

Test(strange_producer, units_do_not_overlap)
{
    greet();
    tell(UNIT("model", 0, 0, FOUR_BYTES), NULL);
    tell(UNIT("block", 1, 1, FOUR_BYTES), NULL);
    expect_failure("before all bytes of unit 0");
}

Test(strange_producer, credit_is_kept)
{
    greet();
    tell(UNIT("model", 0, 0, FOUR_BYTES), NULL);
    tell(CHUNK(0, 0, 0), "abcd");
    tell(UNIT("block", 1, 1, TENSOR("t", "F64", "[1000]", "inline", "null", 8000)), NULL);
    cr_assert(edges_poll(&edges, edges_has_unit) || edges.error.code);
    edges_poll_for(&edges, 50);
    cr_expect(strstr(edges.error.message, "without credit"), "%s", edges.error.message);
}

static const char *const chunks[] = {"abcd", "thirty bytes of nothing at all"};

struct wrong {
    const char *header, *why;
};

Test(strange_producer, headers)
{
    static const struct wrong wrong[] = {
        {UNIT("blob", 0, 0, ""), "neither model, block nor end"},
        {UNIT("model", 0, 0, "3"), "a tensor that is not a map"},
        {UNIT("model", 0, 0, FOUR_BYTES "," FOUR_BYTES), "there twice"},
        {UNIT("model", 0, 0, TENSOR("t", "U9", "[4]", "inline", "null", 4)), "tensor t: dtype U9 is not known"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[5]", "inline", "null", 4)), "its shape takes 5"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[-4]", "inline", "null", 4)), "negative"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4611686018427387904, 4]", "inline", "null", 4)), "too large"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "mail", "null", 4)), "is no place"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "inline", "\"/etc/passwd\"", 4)), "is no place"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "file", "null", 4)), "is no place"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "file", "\"/etc/passwd\"", 4)), "refused"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "file", "\"weights\"", 4)), "refused"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "shm", "\"/qp-testrun-../x\"", 4)), "refused"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[4]", "shm", "\"/qp-testrun-none\"", 4)), "cannot open"},
        {UNIT("model", 0, 0, TENSOR("t", "U8", "[1,1,1,1,1,1,1,1,4]", "inline", "null", 4)), "rank 9"},
        {"{\"kind\": \"hello\", \"body\": {}}", "unknown kind"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        greet();
        tell(wrong[i].header, NULL);
        expect_failure(wrong[i].why);
        dial_again();
    }
}

/* What became of a unit whose bytes have been sent, and garbage after them: it came, or the consumer has failed. */
static bool is_accepted(void)
{
    bool accepted = edges_poll(&edges, edges_has_unit) || edges_has_unit(&edges);
    cr_assert(accepted || edges.error.code, "nothing was read");
    if (!accepted) {
        cr_expect_eq(edges.error.code, QP_ERR_STAGE);
        cr_expect_gt(strlen(edges.error.message), 0);
    }
    return accepted;
}

/* A unit with both tensors, whatever their names and types are now. */
static void expect_sound(void)
{
    struct qp_receipt *receipt;
    struct qp_unit *unit = qp_in_take(edges.in, &receipt);
    cr_assert_leq(unit->count, 2);
    for (size_t i = 0; i < unit->count; i++) {
        const struct qp_tensor *t = unit->tensors[i];
        int64_t elements;
        size_t bytes;
        cr_assert_eq(qp_tensor_size(t->dtype, t->rank, t->shape, &elements, &bytes, NULL), 0);
        cr_expect_eq(t->bytes, bytes);
        cr_expect_eq(memcmp(t->data, chunks[i], t->bytes), 0, "tensor %zu", i);
    }
    qp_in_processed(edges.in, receipt);
    qp_receipt_release(receipt);
    qp_unit_free(unit);
}

/* A real header with bytes changed, and the chunks that belong to it: the consumer takes the unit or fails. The first
 * is unchanged and has to be taken. */
Test(strange_producer, mutated_headers)
{
    unsigned seed = 7;
    qp_auto_sbuffer msgpack_sbuffer buffer;
    pack(UNIT("model", 0, 0, FOUR_BYTES "," TENSOR("u", "F16", "[3, 5]", "inline", "null", 30)), &buffer);
    int accepted = 0;
    for (int i = 0; i < 300; i++) {
        char bytes[1024];
        memcpy(bytes, buffer.data, buffer.size);
        for (int j = i == 0 ? -1 : rand_r(&seed) % 3; j >= 0; j--)
            bytes[(unsigned)rand_r(&seed) % buffer.size] = (char)rand_r(&seed);
        greet();
        edges.error = (struct qp_error){0};
        tell_bytes(bytes, buffer.size, NULL);
        tell(CHUNK(0, 0, 0), chunks[0]);
        tell(CHUNK(0, 1, 0), chunks[1]);
        tell_bytes("garbage", 7, NULL);
        bool is = is_accepted();
        cr_assert(i > 0 || is, "%s", edges.error.message);
        accepted += is;
        if (is)
            expect_sound();
        dial_again();
    }
    cr_expect_lt(accepted, 300, "none of them was refused");
}
