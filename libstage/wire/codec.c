/* Packing is msgpack-c's. Reading is not: msgpack-c allocates 24 bytes an object from the counts that the bytes
 * declare, before it looks whether they can be there, and accepts duplicate keys. The reader below allocates only for
 * what it has seen. */
#include "libstage/wire/codec.h"

#include <math.h>
#include <string.h>

#include "libstage/base/cleanup.h"

struct reader {
    const unsigned char *data;
    size_t size, at;
    struct qp_error *err;
};

static int pack(const json_t *value, msgpack_packer *packer, int depth, struct qp_error *err);

void qp_codec_pack_string(msgpack_packer *packer, const char *text)
{
    size_t n = strlen(text);
    msgpack_pack_str(packer, n);
    msgpack_pack_str_body(packer, text, n);
}

static int pack_array(const json_t *value, msgpack_packer *packer, int depth, struct qp_error *err)
{
    int r = 0;
    msgpack_pack_array(packer, json_array_size(value));
    for (size_t i = 0; r == 0 && i < json_array_size(value); i++)
        r = pack(json_array_get(value, i), packer, depth + 1, err);
    return r;
}

static int pack_map(const json_t *value, msgpack_packer *packer, int depth, struct qp_error *err)
{
    const char *key;
    json_t *item;
    msgpack_pack_map(packer, json_object_size(value));
    json_object_foreach((json_t *)value, key, item) {
        qp_codec_pack_string(packer, key);
        int r = pack(item, packer, depth + 1, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int pack(const json_t *value, msgpack_packer *packer, int depth, struct qp_error *err)
{
    if (depth >= QP_CODEC_DEPTH)
        return qp_fail(err, QP_ERR_INPUT, "a message nests deeper than %d levels", QP_CODEC_DEPTH);
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return pack_map(value, packer, depth, err);
    case JSON_ARRAY:
        return pack_array(value, packer, depth, err);
    case JSON_STRING:
        msgpack_pack_str(packer, json_string_length(value));
        msgpack_pack_str_body(packer, json_string_value(value), json_string_length(value));
        return 0;
    case JSON_INTEGER:
        msgpack_pack_int64(packer, json_integer_value(value));
        return 0;
    case JSON_REAL:
        msgpack_pack_double(packer, json_real_value(value));
        return 0;
    case JSON_TRUE:
        msgpack_pack_true(packer);
        return 0;
    case JSON_FALSE:
        msgpack_pack_false(packer);
        return 0;
    case JSON_NULL:
        break;
    }
    msgpack_pack_nil(packer);
    return 0;
}

int qp_codec_pack(const json_t *value, msgpack_sbuffer *out, struct qp_error *err)
{
    msgpack_packer packer;
    msgpack_packer_init(&packer, out, msgpack_sbuffer_write);
    return pack(value, &packer, 0, err);
}

static json_t *refuse(struct reader *in, const char *what)
{
    qp_fail(in->err, QP_ERR_STAGE, "malformed message at byte %zu of %zu: %s", in->at, in->size, what);
    return NULL;
}

/* A big-endian number of `width` bytes. */
static bool take_number(struct reader *in, int width, uint64_t *out)
{
    if ((size_t)width > in->size - in->at)
        return refuse(in, "it ends inside a number");
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value = value << 8 | in->data[in->at++];
    *out = value;
    return true;
}

static json_t *take_unsigned(struct reader *in, int width)
{
    uint64_t value;
    if (!take_number(in, width, &value))
        return NULL;
    return value <= INT64_MAX ? json_integer((json_int_t)value) : refuse(in, "an integer over 2^63 - 1");
}

static json_t *take_signed(struct reader *in, int width)
{
    uint64_t value;
    if (!take_number(in, width, &value))
        return NULL;
    int shift = 64 - 8 * width;
    return json_integer((json_int_t)((int64_t)(value << shift) >> shift));
}

static json_t *take_float(struct reader *in, int width)
{
    uint64_t bits;
    if (!take_number(in, width, &bits))
        return NULL;
    double value;
    if (width == 4) {
        uint32_t low = (uint32_t)bits;
        float single;
        memcpy(&single, &low, sizeof single);
        value = (double)single;
    } else {
        memcpy(&value, &bits, sizeof value);
    }
    return isfinite(value) ? json_real(value) : refuse(in, "a number that is not finite");
}

static const char *take_bytes(struct reader *in, uint64_t length)
{
    if (length > in->size - in->at) {
        refuse(in, "a string that is longer than the message");
        return NULL;
    }
    const char *text = (const char *)in->data + in->at;
    if (memchr(text, '\0', length)) {
        refuse(in, "a string with a NUL");
        return NULL;
    }
    in->at += length;
    return text;
}

static json_t *take_string(struct reader *in, uint64_t length)
{
    const char *text = take_bytes(in, length);
    if (!text)
        return NULL;
    json_t *value = json_stringn(text, length);
    return value ? value : refuse(in, "a string that is not UTF-8");
}

static json_t *take(struct reader *in, int depth);

static json_t *take_array(struct reader *in, uint64_t count, int depth)
{
    if (count > in->size - in->at)
        return refuse(in, "an array with more elements than the message has bytes");
    qp_auto_json json_t *array = json_array();
    for (uint64_t i = 0; array && i < count; i++) {
        json_t *item = take(in, depth + 1);
        if (!item || json_array_append_new(array, item) < 0)
            return NULL;
    }
    return json_incref(array);
}

static json_t *take_map(struct reader *in, uint64_t count, int depth)
{
    if (count > (in->size - in->at) / 2)
        return refuse(in, "a map with more entries than the message has bytes");
    qp_auto_json json_t *map = json_object();
    for (uint64_t i = 0; map && i < count; i++) {
        qp_auto_json json_t *key = take(in, QP_CODEC_DEPTH - 1);
        if (!key)
            return NULL;
        if (!json_is_string(key))
            return refuse(in, "a key that is not a string");
        if (json_object_get(map, json_string_value(key)))
            return refuse(in, "a key that was there before");
        json_t *item = take(in, depth + 1);
        if (!item || json_object_set_new(map, json_string_value(key), item) < 0)
            return NULL;
    }
    return json_incref(map);
}

/* A length of `width` bytes, then what it is the length of. */
static json_t *take_sized(struct reader *in, int width, int depth, char what)
{
    uint64_t count;
    if (!take_number(in, width, &count))
        return NULL;
    return what == 's'   ? take_string(in, count)
           : what == 'a' ? take_array(in, count, depth)
                         : take_map(in, count, depth);
}

/* The first bytes are those of the msgpack specification. */
static json_t *take(struct reader *in, int depth)
{
    if (depth >= QP_CODEC_DEPTH)
        return refuse(in, "nested too deep");
    if (in->at == in->size)
        return refuse(in, "it ends too early");
    unsigned char first = in->data[in->at++];
    if (first <= 0x7f)
        return json_integer(first);
    if (first <= 0x8f)
        return take_map(in, first & 0x0f, depth);
    if (first <= 0x9f)
        return take_array(in, first & 0x0f, depth);
    if (first <= 0xbf)
        return take_string(in, first & 0x1f);
    if (first >= 0xe0)
        return json_integer((int)first - 0x100);
    switch (first) {
    case 0xc0:
        return json_null();
    case 0xc2:
    case 0xc3:
        return json_boolean(first & 1);
    case 0xca:
    case 0xcb:
        return take_float(in, 4 << (first - 0xca));
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        return take_unsigned(in, 1 << (first - 0xcc));
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_signed(in, 1 << (first - 0xd0));
    case 0xd9:
    case 0xda:
    case 0xdb:
        return take_sized(in, 1 << (first - 0xd9), depth, 's');
    case 0xdc:
    case 0xdd:
        return take_sized(in, 2 << (first - 0xdc), depth, 'a');
    case 0xde:
    case 0xdf:
        return take_sized(in, 2 << (first - 0xde), depth, 'm');
    default:
        in->at--;
        return refuse(in, "binary data, an extension or no msgpack at all");
    }
}

int qp_codec_unpack(const void *data, size_t size, json_t **out, struct qp_error *err)
{
    struct qp_error own = {0};
    struct reader in = {data, size, 0, err ? err : &own};
    in.err->code = 0;
    qp_auto_json json_t *value = take(&in, 0);
    if (!value)
        return in.err->code ? in.err->code : qp_fail_memory(err, size, "a message");
    if (in.at != size) {
        refuse(&in, "more bytes after the value");
        return QP_ERR_STAGE;
    }
    *out = json_incref(value);
    return 0;
}
