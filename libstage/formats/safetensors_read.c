#include <stdlib.h>
#include <string.h>

#include "libstage/base/checked.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/formats/safetensors.h"

/* The rules are those of the safetensors crate (tensor.rs, Metadata::validate), and duplicate names are refused. */

#define HEADER_LIMIT 100000000u
#define SHAPE_TEXT 256

/* A tensor as the header says it. */
struct entry {
    const char *name; /* borrowed from the header */
    enum qp_dtype dtype;
    int rank;
    int64_t shape[QP_MAX_RANK];
    uint64_t begin, end; /* in the data */
};

struct header {
    const char *path;
    json_t *json;
    struct entry *entries; /* sorted by offset */
    size_t count;
    uint64_t data; /* offset of the data in the file */
};

static int bad(const struct header *h, const char *name, struct qp_error *err)
{
    return qp_wrap(err, "%s:%s", h->path, name);
}

static int read_dtype(const json_t *value, struct entry *e, struct qp_error *err)
{
    if (!json_is_string(value))
        return qp_fail(err, QP_ERR_INPUT, "dtype is missing or no string");
    const char *word = json_string_value(value);
    e->dtype = qp_dtype_by_name(word);
    if (e->dtype == QP_DTYPE_NONE || e->dtype == QP_I4)
        return qp_fail(err, QP_ERR_INPUT,
                       "dtype %.40s is unknown; expected F64, F32, F16, BF16, F8_E4M3, F8_E5M2, I64, I32, I16, I8, U8 "
                       "or BOOL",
                       word);
    return 0;
}

static int read_shape(const json_t *value, struct entry *e, struct qp_error *err)
{
    if (!json_is_array(value))
        return qp_fail(err, QP_ERR_INPUT, "shape is missing or no list");
    if (json_array_size(value) > QP_MAX_RANK)
        return qp_fail(err, QP_ERR_INPUT, "shape has %zu dimensions; at most %d are supported", json_array_size(value),
                       QP_MAX_RANK);
    e->rank = (int)json_array_size(value);
    for (int i = 0; i < e->rank; i++) {
        const json_t *item = json_array_get(value, (size_t)i);
        if (!json_is_integer(item) || json_integer_value(item) < 0)
            return qp_fail(err, QP_ERR_INPUT, "dimension %d of the shape is no integer from 0 up", i);
        e->shape[i] = json_integer_value(item);
    }
    return 0;
}

static int read_offsets(const json_t *value, struct entry *e, struct qp_error *err)
{
    const json_t *begin = json_array_get(value, 0), *end = json_array_get(value, 1);
    if (json_array_size(value) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return qp_fail(err, QP_ERR_INPUT, "data_offsets is missing or no list of two integers");
    if (json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return qp_fail(err, QP_ERR_INPUT, "data_offsets are [%lld, %lld]; expected 0 <= begin <= end",
                       (long long)json_integer_value(begin), (long long)json_integer_value(end));
    e->begin = (uint64_t)json_integer_value(begin);
    e->end = (uint64_t)json_integer_value(end);
    return 0;
}

static int check_size(const struct entry *e, struct qp_error *err)
{
    int64_t elements;
    size_t bytes;
    if (qp_tensor_size(e->dtype, e->rank, e->shape, &elements, &bytes, err) < 0)
        return err->code;
    if (e->end - e->begin == bytes)
        return 0;
    char text[SHAPE_TEXT];
    return qp_fail(err, QP_ERR_INPUT, "data_offsets span %llu bytes; %s of shape %s takes %zu",
                   (unsigned long long)(e->end - e->begin), qp_dtype_name(e->dtype),
                   qp_shape_text(e->rank, e->shape, text, sizeof text), bytes);
}

static int read_entry(const json_t *value, struct entry *e, struct qp_error *err)
{
    if (!json_is_object(value))
        return qp_fail(err, QP_ERR_INPUT, "expected a mapping with dtype, shape and data_offsets");
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
        if (strcmp(key, "dtype") != 0 && strcmp(key, "shape") != 0 && strcmp(key, "data_offsets") != 0)
            return qp_fail(err, QP_ERR_INPUT, "unknown key '%.40s'; expected dtype, shape and data_offsets", key);
    if (read_dtype(json_object_get(value, "dtype"), e, err) < 0 ||
        read_shape(json_object_get(value, "shape"), e, err) < 0 ||
        read_offsets(json_object_get(value, "data_offsets"), e, err) < 0)
        return err->code;
    return check_size(e, err);
}

static int check_metadata(const json_t *value, struct qp_error *err)
{
    if (!json_is_object(value))
        return qp_fail(err, QP_ERR_INPUT, "expected a mapping of strings");
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)value, key, member)
        if (!json_is_string(member))
            return qp_fail(err, QP_ERR_INPUT, "the value of '%.100s' is no string", key);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* The tensors, sorted by offset, must tile the data: from 0 to `size` with neither holes nor overlaps. */
static int check_tiling(const struct header *h, uint64_t size, struct qp_error *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < h->count; i++) {
        const struct entry *e = &h->entries[i];
        if (e->begin < at)
            return qp_fail(err, QP_ERR_INPUT, "%s:%s: begins at byte %llu and overlaps %s, which ends at %llu", h->path,
                           e->name, (unsigned long long)e->begin, h->entries[i - 1].name, (unsigned long long)at);
        if (e->begin > at)
            return qp_fail(err, QP_ERR_INPUT,
                           "%s:%s: begins at byte %llu, but the tensors before it end at %llu: a hole", h->path,
                           e->name, (unsigned long long)e->begin, (unsigned long long)at);
        at = e->end;
    }
    if (at > size)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: truncated: holds %llu bytes of data, its header says %llu; copy it again", h->path,
                       (unsigned long long)size, (unsigned long long)at);
    if (at < size)
        return qp_fail(err, QP_ERR_INPUT, "%s: %llu bytes after the last tensor", h->path,
                       (unsigned long long)(size - at));
    return 0;
}

/* Parses the JSON of the header, after checking that it lies in the file. */
static int load_json(const struct qp_storage *file, struct header *h, struct qp_error *err)
{
    const unsigned char *p = file->base;
    uint64_t length = 0;
    if (file->size < 8)
        return qp_fail(err, QP_ERR_INPUT, "%s: %zu bytes; expected a safetensors file, 8 bytes at least", h->path,
                       file->size);
    for (int i = 7; i >= 0; i--)
        length = length << 8 | p[i];
    if (length > HEADER_LIMIT)
        return qp_fail(err, QP_ERR_INPUT, "%s: header of %llu bytes; the format allows %u: is it a safetensors file?",
                       h->path, (unsigned long long)length, HEADER_LIMIT);
    if (length > file->size - 8)
        return qp_fail(err, QP_ERR_INPUT, "%s: truncated: header of %llu bytes in a file of %zu", h->path,
                       (unsigned long long)length, file->size);
    h->data = 8 + length;
    if (length == 0 || p[8] != '{')
        return qp_fail(err, QP_ERR_INPUT, "%s: the header does not begin with '{'", h->path);
    json_error_t at;
    h->json = json_loadb((const char *)p + 8, length, JSON_REJECT_DUPLICATES, &at);
    if (!h->json)
        return qp_fail(err, QP_ERR_INPUT, "%s: byte %d of the header: not valid JSON: %s", h->path, at.position,
                       at.text);
    return 0;
}

static int read_header(const struct qp_storage *file, struct header *h, struct qp_error *err)
{
    if (load_json(file, h, err) < 0)
        return err->code;
    h->entries = calloc(json_object_size(h->json) + 1, sizeof *h->entries);
    if (!h->entries)
        return qp_fail_memory(err, json_object_size(h->json) * sizeof *h->entries, h->path);
    const char *key;
    json_t *value;
    json_object_foreach(h->json, key, value) {
        bool metadata = strcmp(key, "__metadata__") == 0;
        struct entry *e = &h->entries[h->count];
        e->name = key;
        if ((metadata ? check_metadata(value, err) : read_entry(value, e, err)) < 0)
            return bad(h, key, err);
        h->count += !metadata;
    }
    qsort(h->entries, h->count, sizeof *h->entries, by_offset);
    return check_tiling(h, file->size - h->data, err);
}

/* A view of the file; a copy when the file does not align the elements. */
static int make_tensor(const struct header *h, const struct entry *e, struct qp_storage *file, struct qp_tensor **out,
                       struct qp_error *err)
{
    uint64_t offset = h->data + e->begin;
    if (offset % (uint64_t)(qp_dtype_bits(e->dtype) / 8) == 0)
        return qp_tensor_view(e->name, e->dtype, e->rank, e->shape, (struct qp_place){file, offset}, out, err);
    int r = qp_tensor_new(e->name, e->dtype, e->rank, e->shape, out, err);
    if (r == 0 && (*out)->bytes > 0)
        memcpy((*out)->data, (const char *)file->base + offset, (*out)->bytes);
    return r;
}

static int append(struct qp_safetensors *set, const struct header *h, struct qp_storage *file, struct qp_error *err)
{
    struct qp_tensor **grown = realloc(set->tensors, (set->count + h->count + 1) * sizeof(struct qp_tensor *));
    if (!grown)
        return qp_fail_memory(err, h->count * sizeof *grown, h->path);
    set->tensors = grown;
    for (size_t i = 0; i < h->count; i++) {
        if (make_tensor(h, &h->entries[i], file, &set->tensors[set->count], err) < 0)
            return qp_wrap(err, "%s", h->path);
        set->count++;
    }
    return 0;
}

/* Appends the tensors of one file to the set. */
static int open_file(const char *path, struct qp_safetensors *set, struct qp_error *err)
{
    struct header h = {.path = path};
    struct qp_storage *file;
    int r = qp_storage_map(path, &file, err);
    if (r < 0)
        return r;
    r = read_header(file, &h, err);
    if (r == 0)
        r = append(set, &h, file, err);
    qp_storage_unref(file);
    free(h.entries);
    json_decref(h.json);
    return r;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct qp_tensor *const *)a)->name, (*(struct qp_tensor *const *)b)->name);
}

static void sort(struct qp_safetensors *set)
{
    if (set->count > 0)
        qsort(set->tensors, set->count, sizeof(struct qp_tensor *), by_name);
}

/* Shards lie beside their index: a name with a slash could lead anywhere. */
static int check_shard_name(const char *index, const char *tensor, const json_t *shard, struct qp_error *err)
{
    const char *name = json_string_value(shard);
    if (!name || !*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return qp_fail(err, QP_ERR_INPUT, "%s:%s: found '%.100s', expected the name of a file in the same folder",
                       index, tensor, name ? name : "no string");
    return 0;
}

/* Opens a shard; each of its tensors must be in the index, under this shard's name. */
static int open_shard(const char *folder, const char *index, const char *shard, const json_t *map,
                      struct qp_safetensors *set, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(folder, shard);
    if (!path)
        return qp_fail_memory(err, 0, index);
    if (!qp_exists(path))
        return qp_fail(err, QP_ERR_INPUT, "%s: the shard %s that it names does not exist; copy it into %s", index,
                       shard, folder);
    size_t first = set->count;
    if (open_file(path, set, err) < 0)
        return err->code;
    for (size_t i = first; i < set->count; i++) {
        const char *name = set->tensors[i]->name;
        const char *expected = json_string_value(json_object_get(map, name));
        if (!expected)
            return qp_fail(err, QP_ERR_INPUT, "%s:%s: is not in the index %s", path, name, index);
        if (strcmp(expected, shard) != 0)
            return qp_fail(err, QP_ERR_INPUT, "%s:%s: the index %s says that it is in %s", path, name, index, expected);
    }
    return 0;
}

static int open_shards(const char *folder, const char *index, const json_t *map, struct qp_safetensors *set,
                       struct qp_error *err)
{
    qp_auto_json json_t *opened = json_object();
    const char *name;
    json_t *shard;
    json_object_foreach((json_t *)map, name, shard) {
        if (check_shard_name(index, name, shard, err) < 0)
            return err->code;
        if (json_object_get(opened, json_string_value(shard)))
            continue;
        if (json_object_set(opened, json_string_value(shard), json_true()) < 0)
            return qp_fail_memory(err, 0, index);
        if (open_shard(folder, index, json_string_value(shard), map, set, err) < 0)
            return err->code;
    }
    return 0;
}

static int open_index(const char *folder, const char *index, struct qp_safetensors *set, struct qp_error *err)
{
    qp_auto_json json_t *json = NULL;
    if (qp_read_json(index, HEADER_LIMIT, &json, err) < 0)
        return err->code;
    const json_t *map = json_object_get(json, "weight_map");
    if (!json_is_object(map))
        return qp_fail(err, QP_ERR_INPUT, "%s: weight_map is missing or no mapping", index);
    if (open_shards(folder, index, map, set, err) < 0)
        return err->code;
    qsort(set->tensors, set->count, sizeof(struct qp_tensor *), by_name);
    const char *name;
    json_t *shard;
    json_object_foreach((json_t *)map, name, shard)
        if (!qp_safetensors_find(set, name))
            return qp_fail(err, QP_ERR_INPUT, "%s:%s: is not in %s, where the index says it is", index, name,
                           json_string_value(shard));
    return 0;
}

static int open_folder(const char *folder, struct qp_safetensors *set, struct qp_error *err)
{
    qp_auto_free char *single = qp_join(folder, "model.safetensors");
    qp_auto_free char *index = qp_join(folder, "model.safetensors.index.json");
    if (!single || !index)
        return qp_fail_memory(err, 0, folder);
    if (qp_exists(single))
        return open_file(single, set, err);
    if (qp_exists(index))
        return open_index(folder, index, set, err);
    return qp_fail(err, QP_ERR_INPUT, "%s: expected model.safetensors or model.safetensors.index.json in this folder",
                   folder);
}

int qp_safetensors_open(const char *path, struct qp_safetensors **out, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    struct qp_safetensors *set = calloc(1, sizeof *set);
    if (!set)
        return qp_fail_memory(err, sizeof *set, path);
    int r = qp_is_folder(path) ? open_folder(path, set, err) : open_file(path, set, err);
    if (r < 0) {
        qp_safetensors_close(set);
        return r;
    }
    sort(set);
    *out = set;
    return 0;
}

void qp_safetensors_close(struct qp_safetensors *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->count; i++)
        qp_tensor_unref(file->tensors[i]);
    free(file->tensors);
    free(file);
}

struct qp_tensor *qp_safetensors_find(const struct qp_safetensors *file, const char *name)
{
    size_t low = 0, high = file->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, file->tensors[middle]->name);
        if (order == 0)
            return file->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}
