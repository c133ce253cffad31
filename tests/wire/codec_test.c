/* The codec: what it takes and gives back, what it refuses, and that no bytes can hurt it. */
#include <criterion/criterion.h>
#include <msgpack.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/codec.h"
#include "libstage/wire/message.h"

static const char *const texts[] = {
    "null",
    "true",
    "[]",
    "{}",
    "0",
    "-1",
    "127",
    "128",
    "-32",
    "-33",
    "255",
    "256",
    "65535",
    "65536",
    "-128",
    "-129",
    "-32768",
    "-32769",
    "2147483648",
    "-2147483649",
    "9223372036854775807",
    "-9223372036854775808",
    "0.5",
    "-1e300",
    "\"\"",
    "\"h\\u00e9llo \\ud83d\\ude00\"",
    "{\"a\": [1, [2, {\"b\": null}]], \"c\": false}",
    "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]",
    "{\"kind\": \"unit\", \"body\": {\"shape\": [128, 576], \"name\": \"model.layers.0.mlp.up_proj.weight\"}}",
};

static json_t *parse(const char *text)
{
    json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
    cr_assert_not_null(value, "%s", text);
    return value;
}

Test(codec, round_trip)
{
    struct qp_error err = {0};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        qp_auto_json json_t *value = parse(texts[i]);
        qp_auto_json json_t *back = NULL;
        qp_auto_sbuffer msgpack_sbuffer buffer;
        msgpack_sbuffer_init(&buffer);
        cr_assert_eq(qp_codec_pack(value, &buffer, &err), 0);
        cr_assert_eq(qp_codec_unpack(buffer.data, buffer.size, &back, &err), 0, "%s: %s", texts[i], err.message);
        cr_assert(json_equal(value, back), "%s", texts[i]);
    }
}

Test(codec, agrees_with_msgpack_c)
{
    qp_auto_json json_t *value = parse(texts[sizeof texts / sizeof texts[0] - 1]);
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    cr_assert_eq(qp_codec_pack(value, &buffer, NULL), 0);
    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    size_t at = 0;
    cr_assert_eq(msgpack_unpack_next(&unpacked, buffer.data, buffer.size, &at), MSGPACK_UNPACK_SUCCESS);
    cr_assert_eq(at, buffer.size);
    cr_assert_eq(unpacked.data.type, MSGPACK_OBJECT_MAP);
    cr_assert_eq(unpacked.data.via.map.size, 2);
    msgpack_unpacked_destroy(&unpacked);
}

static void refused(const char *bytes, size_t size, const char *why)
{
    struct qp_error err = {0};
    json_t *value = NULL;
    cr_expect_eq(qp_codec_unpack(bytes, size, &value, &err), QP_ERR_STAGE, "%s was accepted", why);
    cr_expect(strstr(err.message, why), "expected '%s' in '%s'", why, err.message);
    json_decref(value);
}

Test(codec, refuses)
{
    refused("", 0, "ends too early");
    refused("\xc0\xc0", 2, "more bytes after");
    refused("\xdd\xff\xff\xff\xff", 5, "more elements than");
    refused("\xdf\x10\x00\x00\x00", 5, "more entries than");
    refused("\xdb\x7f\xff\xff\xff", 5, "longer than the message");
    refused("\x82\xa1\x61\x01\xa1\x61\x02", 7, "a key that was there before");
    refused("\x81\x01\x02", 3, "a key that is not a string");
    refused("\x81\x90\x02", 3, "a key that is not a string");
    refused("\xa2\x61\x00", 3, "a NUL");
    refused("\xa1\xff", 2, "not UTF-8");
    refused("\xc4\x01\x00", 3, "binary data");
    refused("\xd4\x01\x00", 3, "an extension");
    refused("\xc1", 1, "no msgpack at all");
    refused("\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, "over 2^63 - 1");
    refused("\xca\x7f\x80\x00\x00", 5, "not finite");
    refused("\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", 9, "not finite");
    refused("\xd3\x00\x00", 3, "inside a number");
    char deep[QP_CODEC_DEPTH + 2];
    memset(deep, '\x91', sizeof deep);
    deep[sizeof deep - 1] = '\xc0';
    refused(deep, sizeof deep, "nested too deep");
}

Test(codec, depth_limit_holds_when_packing)
{
    json_t *value = json_array();
    for (int i = 0; i < QP_CODEC_DEPTH; i++)
        value = json_pack("[o]", value);
    qp_auto_json json_t *deep = value;
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    cr_assert_eq(qp_codec_pack(deep, &buffer, NULL), QP_ERR_INPUT);
}

/* Mutations of a real header: refused or read, never a crash; and what is read packs again. */
Test(codec, mutations)
{
    unsigned seed = 12345;
    qp_auto_json json_t *value = parse(texts[sizeof texts / sizeof texts[0] - 1]);
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    cr_assert_eq(qp_codec_pack(value, &buffer, NULL), 0);
    int read = 0;
    for (int i = 0; i < 20000; i++) {
        size_t size = 1 + (unsigned)rand_r(&seed) % buffer.size;
        char *bytes = malloc(size); /* its own allocation: reading past the end is seen by AddressSanitizer */
        memcpy(bytes, buffer.data, size);
        for (int j = rand_r(&seed) % 4; j >= 0; j--)
            bytes[(unsigned)rand_r(&seed) % size] = (char)rand_r(&seed);
        qp_auto_json json_t *back = NULL;
        struct qp_error err;
        if (qp_codec_unpack(bytes, size, &back, &err) == 0) {
            qp_auto_sbuffer msgpack_sbuffer again;
            msgpack_sbuffer_init(&again);
            cr_assert_eq(qp_codec_pack(back, &again, &err), 0);
            read++;
        }
        const char *kind;
        qp_auto_json json_t *body = NULL;
        qp_message_unpack(QP_FROM_PRODUCER, bytes, size, &kind, &body, &err);
        free(bytes);
    }
    cr_assert_gt(read, 0);
}

static int unpack_text(enum qp_speaker speaker, const char *text, struct qp_error *err)
{
    qp_auto_json json_t *value = parse(text);
    qp_auto_json json_t *body = NULL;
    const char *kind;
    qp_auto_sbuffer msgpack_sbuffer buffer;
    msgpack_sbuffer_init(&buffer);
    cr_assert_eq(qp_codec_pack(value, &buffer, err), 0);
    return qp_message_unpack(speaker, buffer.data, buffer.size, &kind, &body, err);
}

Test(message, keys_are_checked)
{
    struct qp_error err;
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": {\"seq\": 3}}", &err), 0);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": {\"seq\": 3, \"x-note\": 1}}", &err), 0);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": {\"seq\": 3, \"y\": 1}}", &err),
                 QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": {}}", &err), QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": {\"seq\": -3}}", &err), QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": {\"seq\": \"3\"}}", &err), QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"ack\", \"body\": 3}", &err), QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_CONSUMER, "{\"kind\": \"config\", \"body\": {}}", &err), QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_PRODUCER, "{\"kind\": \"ack\", \"body\": {\"seq\": 3}}", &err), QP_ERR_STAGE);
    cr_expect_eq(unpack_text(QP_FROM_RUNNER, "[]", &err), QP_ERR_STAGE);
}

Test(message, header_limits)
{
    struct qp_error err;
    const char *kind;
    json_t *body = NULL;
    qp_auto_free char *text = malloc(QP_HEADER_LIMIT + 2);
    memset(text, 'a', QP_HEADER_LIMIT + 1);
    text[QP_SMALL_HEADER_LIMIT] = '\0';
    qp_auto_json json_t *log = json_pack("{s:s, s:s}", "level", "info", "message", text);
    qp_auto_json json_t *report = json_pack("{s:s, s:s}", "key", "k", "value", text);
    qp_auto_sbuffer msgpack_sbuffer small;
    qp_auto_sbuffer msgpack_sbuffer large;
    msgpack_sbuffer_init(&small);
    msgpack_sbuffer_init(&large);
    cr_assert_eq(qp_message_pack("log", log, &small, &err), 0);
    cr_expect_eq(qp_message_unpack(QP_FROM_STAGE, small.data, small.size, &kind, &body, &err), QP_ERR_STAGE);
    cr_assert_eq(qp_message_pack("report", report, &large, &err), 0);
    cr_expect_eq(qp_message_unpack(QP_FROM_STAGE, large.data, large.size, &kind, &body, &err), 0);
    json_decref(body);
    text[QP_SMALL_HEADER_LIMIT] = 'a';
    text[QP_HEADER_LIMIT + 1] = '\0';
    qp_auto_json json_t *huge = json_pack("{s:s, s:s}", "key", "k", "value", text);
    cr_expect_eq(qp_message_pack("report", huge, &large, &err), QP_ERR_INPUT);
}
