#include "libstage/wire/unit_header.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/wire/codec.h"
#include "libstage/wire/message.h"

static const char *const where_names[] = {"inline", "shm", "file"};

enum qp_where qp_travels(const struct qp_tensor *tensor, bool same_host)
{
    return same_host && tensor->bytes > QP_ALWAYS_INLINE ? tensor->storage->where : QP_WHERE_INLINE;
}

struct qp_unit_size qp_unit_size(const struct qp_unit *unit, bool same_host)
{
    struct qp_unit_size size = {0};
    for (size_t i = 0; i < unit->count; i++) {
        enum qp_where where = qp_travels(unit->tensors[i], same_host);
        uint64_t *sum = where == QP_WHERE_INLINE ? &size.inline_bytes
                        : where == QP_WHERE_SHM  ? &size.shm_bytes
                                                 : &size.file_bytes;
        *sum += unit->tensors[i]->bytes;
    }
    return size;
}

static void pack_shape(const struct qp_tensor *tensor, msgpack_packer *packer)
{
    msgpack_pack_array(packer, (size_t)tensor->rank);
    for (int i = 0; i < tensor->rank; i++)
        msgpack_pack_int64(packer, tensor->shape[i]);
}

static int pack_path(const struct qp_tensor *tensor, enum qp_where where, msgpack_packer *packer, struct qp_error *err)
{
    const char *path = tensor->storage->path;
    qp_auto_free char *absolute = where == QP_WHERE_FILE && path[0] != '/' ? realpath(path, NULL) : NULL;
    qp_codec_pack_string(packer, "path");
    if (where == QP_WHERE_INLINE)
        msgpack_pack_nil(packer);
    else if (absolute || path[0] == '/')
        qp_codec_pack_string(packer, absolute ? absolute : path);
    else
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot refer to %s", tensor->name, path);
    return 0;
}

static int pack_tensor(const struct qp_tensor *tensor, enum qp_where where, msgpack_packer *packer,
                       struct qp_error *err)
{
    msgpack_pack_map(packer, 7);
    qp_codec_pack_string(packer, "name");
    qp_codec_pack_string(packer, tensor->name);
    qp_codec_pack_string(packer, "dtype");
    qp_codec_pack_string(packer, qp_dtype_name(tensor->dtype));
    qp_codec_pack_string(packer, "shape");
    pack_shape(tensor, packer);
    qp_codec_pack_string(packer, "where");
    qp_codec_pack_string(packer, where_names[where]);
    qp_codec_pack_string(packer, "offset");
    msgpack_pack_uint64(packer, where == QP_WHERE_INLINE ? 0 : tensor->offset);
    qp_codec_pack_string(packer, "bytes");
    msgpack_pack_uint64(packer, tensor->bytes);
    return pack_path(tensor, where, packer, err);
}

static void begin(msgpack_packer *packer, msgpack_sbuffer *out, const char *kind, size_t keys)
{
    msgpack_packer_init(packer, out, msgpack_sbuffer_write);
    msgpack_pack_map(packer, 2);
    qp_codec_pack_string(packer, "kind");
    qp_codec_pack_string(packer, kind);
    qp_codec_pack_string(packer, "body");
    msgpack_pack_map(packer, keys);
}

static void pack_number(msgpack_packer *packer, const char *key, int64_t value)
{
    qp_codec_pack_string(packer, key);
    msgpack_pack_int64(packer, value);
}

int qp_unit_header_pack(const struct qp_unit *unit, const msgpack_sbuffer *attrs, int64_t units, bool same_host,
                        msgpack_sbuffer *out, struct qp_error *err)
{
    msgpack_packer packer;
    begin(&packer, out, "unit", 5);
    qp_codec_pack_string(&packer, "kind");
    qp_codec_pack_string(&packer, qp_unit_kind_name(unit->kind));
    pack_number(&packer, "seq", unit->seq);
    pack_number(&packer, "units", units);
    qp_codec_pack_string(&packer, "attrs");
    msgpack_sbuffer_write(out, attrs->data, attrs->size);
    qp_codec_pack_string(&packer, "tensors");
    msgpack_pack_array(&packer, unit->count);
    int r = 0;
    for (size_t i = 0; r == 0 && i < unit->count; i++)
        r = pack_tensor(unit->tensors[i], qp_travels(unit->tensors[i], same_host), &packer, err);
    if (r == 0 && out->size > QP_UNIT_HEADER_LIMIT)
        return qp_fail(err, QP_ERR_INPUT,
                       "the header of %s unit %lld has %zu bytes; at most %d can be sent: make its attributes smaller",
                       qp_unit_kind_name(unit->kind), (long long)unit->seq, out->size, QP_UNIT_HEADER_LIMIT);
    return r;
}

void qp_chunk_header_pack(int64_t seq, size_t tensor, uint64_t offset, msgpack_sbuffer *out)
{
    msgpack_packer packer;
    begin(&packer, out, "chunk", 3);
    pack_number(&packer, "seq", seq);
    pack_number(&packer, "tensor", (int64_t)tensor);
    pack_number(&packer, "offset", (int64_t)offset);
}

enum qp_unit_kind qp_unit_kind_by_name(const char *name)
{
    for (enum qp_unit_kind kind = QP_UNIT_MODEL; kind <= QP_UNIT_END; kind++)
        if (strcmp(name, qp_unit_kind_name(kind)) == 0)
            return kind;
    return 0;
}

static int read_shape(const json_t *shape, struct qp_tensor_entry *entry, struct qp_error *err)
{
    size_t rank = json_array_size(shape);
    if (rank > QP_MAX_RANK)
        return qp_fail(err, QP_ERR_STAGE, "tensor %s: rank %zu; at most %d", entry->name, rank, QP_MAX_RANK);
    entry->rank = (int)rank;
    for (size_t i = 0; i < rank; i++) {
        const json_t *dimension = json_array_get(shape, i);
        if (!json_is_integer(dimension))
            return qp_fail(err, QP_ERR_STAGE, "tensor %s: a dimension that is no integer", entry->name);
        entry->shape[i] = json_integer_value(dimension);
    }
    return 0;
}

static int read_place(const json_t *value, struct qp_tensor_entry *entry, struct qp_error *err)
{
    const char *where = json_string_value(json_object_get(value, "where"));
    int i = 0;
    while (i < 3 && strcmp(where, where_names[i]) != 0)
        i++;
    entry->where = (enum qp_where)i;
    entry->path = json_string_value(json_object_get(value, "path"));
    entry->offset = (uint64_t)json_integer_value(json_object_get(value, "offset"));
    bool reference = entry->where != QP_WHERE_INLINE;
    if (i == 3 || (reference && !entry->path) || (!reference && (entry->path || entry->offset != 0)))
        return qp_fail(err, QP_ERR_STAGE, "tensor %s: %.20s with that path and offset is no place", entry->name, where);
    return 0;
}

int qp_tensor_entry_read(const json_t *value, struct qp_tensor_entry *entry, struct qp_error *err)
{
    static const char *const fields[] = {"name:s",  "dtype:s",  "shape:a", "where:s",
                                         "path:s0", "offset:i", "bytes:i", NULL};
    int r = json_is_object(value) ? qp_fields_check(value, fields, "tensor", err)
                                  : qp_fail(err, QP_ERR_STAGE, "a tensor that is not a map");
    if (r < 0)
        return r;
    const char *dtype = json_string_value(json_object_get(value, "dtype"));
    entry->name = json_string_value(json_object_get(value, "name"));
    entry->dtype = qp_dtype_by_name(dtype);
    if (entry->dtype == QP_DTYPE_NONE)
        return qp_fail(err, QP_ERR_STAGE, "tensor %s: dtype %.20s is not known", entry->name, dtype);
    entry->bytes = (uint64_t)json_integer_value(json_object_get(value, "bytes"));
    r = read_shape(json_object_get(value, "shape"), entry, err);
    if (r == 0)
        r = read_place(value, entry, err);
    int64_t elements;
    size_t bytes;
    if (r == 0 && qp_tensor_size(entry->dtype, entry->rank, entry->shape, &elements, &bytes, err) < 0) {
        qp_wrap(err, "tensor %s", entry->name);
        r = err->code = QP_ERR_STAGE;
    }
    if (r == 0 && bytes != entry->bytes)
        r = qp_fail(err, QP_ERR_STAGE, "tensor %s: %llu bytes declared, its shape takes %zu", entry->name,
                    (unsigned long long)entry->bytes, bytes);
    return r;
}
