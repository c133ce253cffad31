#include "libstage/formats/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"
#include "libstage/base/cleanup.h"
#include "libstage/formats/gguf_blocks.h"

/* The layout is that of ggml's docs/gguf.md; the rules are those of ggml's gguf.cpp, and what its advisories teach:
 * every count is compared with the bytes that are left before anything is allocated from it. */

#define METADATA_LIMIT ((uint64_t)1 << 26) /* JSON takes some 40 times an array of bytes */
#define DEFAULT_ALIGNMENT 32
#define LEAST_TENSOR 24 /* bytes of a tensor's entry without its name and dimensions */
#define MAX_DIMENSIONS 4
#define WHERE 160

enum value_type {
    VALUE_U8,
    VALUE_I8,
    VALUE_U16,
    VALUE_I16,
    VALUE_U32,
    VALUE_I32,
    VALUE_F32,
    VALUE_BOOL,
    VALUE_STRING,
    VALUE_ARRAY,
    VALUE_U64,
    VALUE_I64,
    VALUE_F64,
    VALUE_TYPES
};

/* Bytes of a value; of a string or an array the least. */
static const uint8_t value_bytes[VALUE_TYPES] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

/* What is being read, and how far it has been read. */
struct cursor {
    const char *path;
    const uint8_t *bytes;
    uint64_t at, size;
    char where[WHERE]; /* the key or tensor at hand, for messages */
    struct qp_error *err;
};

__attribute__((format(printf, 2, 3))) static int bad(struct cursor *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    qp_vfail(c->err, QP_ERR_INPUT, format, args);
    va_end(args);
    return qp_wrap(c->err, "%s%s%s", c->path, *c->where ? ":" : "", c->where);
}

static int truncated(struct cursor *c)
{
    return bad(c, "truncated: the file ends at byte %llu in the middle of it; copy it again",
               (unsigned long long)c->size);
}

/* Reads a little-endian number of `bytes` bytes. */
static int take(struct cursor *c, int bytes, uint64_t *out)
{
    if ((uint64_t)bytes > c->size - c->at)
        return truncated(c);
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--)
        value = value << 8 | c->bytes[c->at + (uint64_t)i];
    c->at += (uint64_t)bytes;
    *out = value;
    return 0;
}

/* Reads a string: `*text` points into the file and is not terminated. */
static int take_string(struct cursor *c, const char **text, uint64_t *length)
{
    if (take(c, 8, length) < 0)
        return c->err->code;
    if (*length > c->size - c->at)
        return bad(c, "a string of %llu bytes, where the file has %llu left", (unsigned long long)*length,
                   (unsigned long long)(c->size - c->at));
    *text = (const char *)c->bytes + c->at;
    c->at += *length;
    return 0;
}

/* Reads the name of a key or tensor into a new string. */
static int take_name(struct cursor *c, const char *what, char **out)
{
    const char *text = NULL;
    uint64_t length = 0;
    c->where[0] = '\0';
    if (take_string(c, &text, &length) < 0)
        return c->err->code;
    if (length == 0 || memchr(text, 0, length))
        return bad(c, "the name of a %s is empty or holds a zero byte", what);
    qp_auto_json json_t *utf8 = json_stringn(text, length);
    if (!utf8)
        return bad(c, "the name of a %s is no UTF-8", what);
    if (!(*out = strndup(text, length)))
        return qp_fail_memory(c->err, length, what);
    strncpy(c->where, *out, sizeof c->where - 1);
    return 0;
}

static int64_t signed_value(uint64_t raw, int bytes)
{
    return (int64_t)(raw << (64 - 8 * bytes)) >> (64 - 8 * bytes);
}

static int make_real(struct cursor *c, double value, json_t **out)
{
    if (!isfinite(value))
        return bad(c, "a number that is not finite");
    *out = json_real(value);
    return *out ? 0 : qp_fail_memory(c->err, 0, c->path);
}

static int make_float(struct cursor *c, enum value_type type, uint64_t raw, json_t **out)
{
    float single;
    double value;
    uint32_t half = (uint32_t)raw;
    memcpy(&single, &half, sizeof single);
    memcpy(&value, &raw, sizeof value);
    return make_real(c, type == VALUE_F32 ? (double)single : value, out);
}

static int take_text(struct cursor *c, json_t **out)
{
    const char *text = NULL;
    uint64_t length = 0;
    if (take_string(c, &text, &length) < 0)
        return c->err->code;
    *out = json_stringn(text, length);
    return *out ? 0 : bad(c, "a string that is no UTF-8");
}

/* Reads a number or boolean. */
static int take_number(struct cursor *c, enum value_type type, json_t **out)
{
    uint64_t raw = 0;
    int bytes = value_bytes[type];
    if (take(c, bytes, &raw) < 0)
        return c->err->code;
    if (type == VALUE_F32 || type == VALUE_F64)
        return make_float(c, type, raw, out);
    if (type == VALUE_BOOL) {
        *out = json_boolean(raw);
        return raw <= 1 ? 0 : bad(c, "a boolean of value %llu; expected 0 or 1", (unsigned long long)raw);
    }
    if (type == VALUE_U64 && raw > INT64_MAX)
        return bad(c, "the number %llu is larger than any that is supported", (unsigned long long)raw);
    bool is_signed = type == VALUE_I8 || type == VALUE_I16 || type == VALUE_I32 || type == VALUE_I64;
    *out = json_integer(is_signed ? signed_value(raw, bytes) : (int64_t)raw);
    return *out ? 0 : qp_fail_memory(c->err, 0, c->path);
}

static int take_type(struct cursor *c, enum value_type *out)
{
    uint64_t type = 0;
    if (take(c, 4, &type) < 0)
        return c->err->code;
    if (type >= VALUE_TYPES)
        return bad(c, "value type %llu is unknown; expected 0 to %d", (unsigned long long)type, VALUE_TYPES - 1);
    *out = (enum value_type)type;
    return 0;
}

static int take_items(struct cursor *c, enum value_type type, uint64_t count, json_t *array)
{
    for (uint64_t i = 0; i < count; i++) {
        json_t *item = NULL;
        int r = type == VALUE_STRING ? take_text(c, &item) : take_number(c, type, &item);
        if (r < 0)
            return r;
        if (json_array_append_new(array, item) < 0)
            return qp_fail_memory(c->err, count * sizeof item, c->path);
    }
    return 0;
}

static int take_array(struct cursor *c, json_t **out)
{
    enum value_type type = VALUE_TYPES;
    uint64_t count = 0;
    if (take_type(c, &type) < 0 || take(c, 8, &count) < 0)
        return c->err->code;
    if (type == VALUE_ARRAY)
        return bad(c, "an array of arrays; expected numbers, booleans or strings");
    if (count > (c->size - c->at) / value_bytes[type])
        return bad(c, "an array of %llu values, where the file has %llu bytes left", (unsigned long long)count,
                   (unsigned long long)(c->size - c->at));
    if (count > METADATA_LIMIT / value_bytes[type])
        return bad(c, "an array of %llu values; at most %llu bytes of metadata are accepted", (unsigned long long)count,
                   (unsigned long long)METADATA_LIMIT);
    qp_auto_json json_t *array = json_array();
    if (!array)
        return qp_fail_memory(c->err, 0, c->path);
    int r = take_items(c, type, count, array);
    if (r == 0)
        *out = json_incref(array);
    return r;
}

static int take_pair(struct cursor *c, json_t *metadata)
{
    qp_auto_free char *key = NULL;
    enum value_type type = VALUE_TYPES;
    json_t *value = NULL;
    if (take_name(c, "key", &key) < 0 || take_type(c, &type) < 0)
        return c->err->code;
    if (json_object_get(metadata, key))
        return bad(c, "the key is given twice");
    int r = type == VALUE_STRING  ? take_text(c, &value)
            : type == VALUE_ARRAY ? take_array(c, &value)
                                  : take_number(c, type, &value);
    if (r < 0)
        return r;
    if (strcmp(key, "general.alignment") == 0 && type != VALUE_U32) {
        json_decref(value);
        return bad(c, "value type %d; expected a uint32", (int)type);
    }
    return json_object_set_new_nocheck(metadata, key, value) < 0 ? qp_fail_memory(c->err, 0, c->path) : 0;
}

static int take_metadata(struct cursor *c, uint64_t count, struct qp_gguf *file)
{
    file->metadata = json_object();
    if (!file->metadata)
        return qp_fail_memory(c->err, 0, c->path);
    for (uint64_t i = 0; i < count; i++) {
        if (take_pair(c, file->metadata) < 0)
            return c->err->code;
        if (c->at > METADATA_LIMIT)
            return bad(c, "metadata of more than the %llu bytes that are accepted", (unsigned long long)METADATA_LIMIT);
    }
    c->where[0] = '\0';
    return 0;
}

static int take_shape(struct cursor *c, struct qp_gguf_tensor *t)
{
    uint64_t rank = 0;
    if (take(c, 4, &rank) < 0)
        return c->err->code;
    if (rank > MAX_DIMENSIONS)
        return bad(c, "%llu dimensions; expected %d at most", (unsigned long long)rank, MAX_DIMENSIONS);
    t->rank = (int)rank;
    for (int i = t->rank - 1; i >= 0; i--) {
        uint64_t length = 0;
        if (take(c, 8, &length) < 0)
            return c->err->code;
        if (length == 0 || length > INT64_MAX)
            return bad(c, "a dimension of %llu", (unsigned long long)length);
        t->shape[i] = (int64_t)length;
    }
    return qp_elements(t->shape, t->rank, &t->elements) ? 0 : bad(c, "the product of the dimensions overflows");
}

/* Reads the type, and works out the bytes that the tensor takes. */
static int take_tensor_type(struct cursor *c, struct qp_gguf_tensor *t)
{
    uint64_t type = 0, bits;
    if (take(c, 4, &type) < 0)
        return c->err->code;
    const struct qp_gguf_block *block = type <= INT32_MAX ? qp_gguf_block((enum qp_gguf_type)type) : NULL;
    if (!block)
        return bad(c,
                   "type %llu cannot be read; expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K or Q6_K: "
                   "convert the file to one of these",
                   (unsigned long long)type);
    t->type = (enum qp_gguf_type)type;
    int64_t row = t->rank > 0 ? t->shape[t->rank - 1] : 1;
    if (row % block->elements != 0)
        return bad(c, "rows of %lld elements; %s takes multiples of %d", (long long)row, block->name, block->elements);
    if (!qp_mul_u64((uint64_t)(t->elements / block->elements), (uint64_t)block->bytes, &bits))
        return bad(c, "the number of its bytes overflows");
    t->bytes = bits;
    return 0;
}

static int take_tensor(struct cursor *c, struct qp_gguf_tensor *t)
{
    if (take_name(c, "tensor", &t->name) < 0 || take_shape(c, t) < 0 || take_tensor_type(c, t) < 0)
        return c->err->code;
    return take(c, 8, &t->offset);
}

static int take_tensors(struct cursor *c, uint64_t count, struct qp_gguf *file)
{
    if (count > (c->size - c->at) / LEAST_TENSOR)
        return bad(c, "%llu tensors, where the file has %llu bytes left", (unsigned long long)count,
                   (unsigned long long)(c->size - c->at));
    file->tensors = calloc(count + 1, sizeof *file->tensors);
    if (!file->tensors)
        return qp_fail_memory(c->err, count * sizeof *file->tensors, c->path);
    for (uint64_t i = 0; i < count; i++) {
        file->count++; /* first, so that a name is freed when the rest fails */
        if (take_tensor(c, &file->tensors[i]) < 0)
            return c->err->code;
    }
    c->where[0] = '\0';
    return 0;
}

static bool align(uint64_t value, uint64_t alignment, uint64_t *out)
{
    if (!qp_add_u64(value, alignment - 1, out))
        return false;
    *out -= *out % alignment;
    return true;
}

static int read_alignment(struct cursor *c, const struct qp_gguf *file, uint64_t *out)
{
    const json_t *value = json_object_get(file->metadata, "general.alignment");
    *out = value ? (uint64_t)json_integer_value(value) : DEFAULT_ALIGNMENT;
    if (*out == 0 || (*out & (*out - 1)) != 0)
        return bad(c, "general.alignment is %llu; expected a power of two", (unsigned long long)*out);
    return 0;
}

/* Each tensor must begin where the one before it, padded, ends; the last must end in the file. Makes the offsets
 * relative to the file. */
static int check_offsets(struct cursor *c, struct qp_gguf *file)
{
    uint64_t alignment = 0, data = 0, at = 0;
    if (read_alignment(c, file, &alignment) < 0)
        return c->err->code;
    if (!align(c->at, alignment, &data))
        return bad(c, "the offset of the data overflows");
    for (size_t i = 0; i < file->count; i++) {
        struct qp_gguf_tensor *t = &file->tensors[i];
        uint64_t end;
        strncpy(c->where, t->name, sizeof c->where - 1);
        if (t->offset != at)
            return bad(c, "offset %llu; expected %llu, where the tensor before it ends", (unsigned long long)t->offset,
                       (unsigned long long)at);
        if (!qp_add_u64(data, at, &t->offset) || !qp_add_u64(t->offset, t->bytes, &end))
            return bad(c, "the sum of the tensors' sizes overflows");
        if (end > c->size)
            return bad(c, "truncated: ends at byte %llu of a file of %llu; copy it again", (unsigned long long)end,
                       (unsigned long long)c->size);
        if (!align(at + t->bytes, alignment, &at))
            return bad(c, "the sum of the tensors' sizes overflows");
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct qp_gguf_tensor *)a)->name, ((const struct qp_gguf_tensor *)b)->name);
}

static int sort_tensors(struct cursor *c, struct qp_gguf *file)
{
    qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
    for (size_t i = 1; i < file->count; i++)
        if (by_name(&file->tensors[i - 1], &file->tensors[i]) == 0) {
            c->where[0] = '\0';
            return bad(c, "the tensor %s is given twice", file->tensors[i].name);
        }
    return 0;
}

static int check_version(struct cursor *c)
{
    uint64_t magic = 0, version = 0;
    if (c->size < 24)
        return bad(c, "%llu bytes; expected a GGUF file, 24 bytes at least", (unsigned long long)c->size);
    take(c, 4, &magic);
    take(c, 4, &version);
    if (magic != 0x46554747) /* "GGUF" */
        return bad(c, "does not begin with GGUF: it is another kind of file");
    if (version == 2 || version == 3)
        return 0;
    if ((version & 0xffff) == 0)
        return bad(c, "a big-endian GGUF file; only little-endian ones can be read");
    return bad(c, "GGUF version %llu; expected 2 or 3: convert the file anew", (unsigned long long)version);
}

static int read_all(struct cursor *c, struct qp_gguf *file)
{
    uint64_t tensors = 0, pairs = 0;
    if (check_version(c) < 0 || take(c, 8, &tensors) < 0 || take(c, 8, &pairs) < 0 ||
        take_metadata(c, pairs, file) < 0 || take_tensors(c, tensors, file) < 0 || check_offsets(c, file) < 0)
        return c->err->code;
    return sort_tensors(c, file);
}

int qp_gguf_open(const char *path, struct qp_gguf **out, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    struct qp_gguf *file = calloc(1, sizeof *file);
    if (!file || !(file->path = strdup(path))) {
        free(file);
        return qp_fail_memory(err, sizeof *file, path);
    }
    int r = qp_storage_map(path, &file->storage, err);
    if (r == 0) {
        struct cursor c = {.path = path, .bytes = file->storage->base, .size = file->storage->size, .err = err};
        r = read_all(&c, file);
    }
    if (r < 0) {
        qp_gguf_close(file);
        return r;
    }
    *out = file;
    return 0;
}

void qp_gguf_close(struct qp_gguf *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->count; i++)
        free(file->tensors[i].name);
    free(file->tensors);
    json_decref(file->metadata);
    qp_storage_unref(file->storage);
    free(file->path);
    free(file);
}

const struct qp_gguf_tensor *qp_gguf_find(const struct qp_gguf *file, const char *name)
{
    const struct qp_gguf_tensor key = {.name = (char *)name};
    return file->count ? bsearch(&key, file->tensors, file->count, sizeof key, by_name) : NULL;
}
