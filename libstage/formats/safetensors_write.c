#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/file_writer.h"
#include "libstage/base/utf8.h"
#include "libstage/formats/safetensors.h"

#define HEADER_PAGE 4096
#define HEADER_MAX (16u << 20) /* of the space kept in a shard; when it is used up, the next shard begins */
#define HEADER_PER_TENSOR 256  /* about twice what a usual entry takes */
#define HEADER_BEGIN 64        /* the header's length, its braces and the metadata */
#define ENTRY_WORDS 64         /* the words and signs of an entry, but for its name and numbers */
#define ENTRY_NUMBER 21        /* digits of an int64_t, and a comma */

struct qp_safetensors_writer {
    char *folder;
    uint64_t shard_bytes;
    uint64_t header_space; /* kept for the header in each shard */
    json_t *shard_of;      /* name -> number of its shard */
    int shards;
    uint64_t total;

    /* the open shard; file NULL when there is none */
    struct qp_file_writer *file;
    char *path;
    json_t *header;
    uint64_t header_used, header_capacity; /* bounds of the bytes of its header */
    uint64_t data;                         /* bytes placed so far */
    struct qp_tensor **late;               /* tensors that wait for the end of the shard */
    size_t late_count;
    uint64_t late_bytes;
};

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

static char *shard_path(const struct qp_safetensors_writer *w, int number)
{
    return qp_format("%s/shard-%05d.partial", w->folder, number);
}

uint64_t qp_safetensors_header_bytes(size_t tensors)
{
    size_t most = HEADER_MAX / HEADER_PER_TENSOR;
    return round_up(HEADER_BEGIN + (uint64_t)HEADER_PER_TENSOR * (tensors < most ? tensors : most), HEADER_PAGE);
}

int qp_safetensors_create(const char *folder, uint64_t shard_bytes, size_t tensors, struct qp_safetensors_writer **out,
                          struct qp_error *err)
{
    if (!qp_is_folder(folder))
        return qp_fail(err, QP_ERR_INPUT, "%s: expected an existing folder to write to", folder);
    struct qp_safetensors_writer *w = calloc(1, sizeof *w);
    if (!w)
        return qp_fail_memory(err, sizeof *w, folder);
    w->shard_bytes = shard_bytes;
    w->header_space = qp_safetensors_header_bytes(tensors);
    w->folder = strdup(folder);
    w->shard_of = json_object();
    if (!w->folder || !w->shard_of) {
        qp_safetensors_abandon(w);
        return qp_fail_memory(err, 0, folder);
    }
    *out = w;
    return 0;
}

static void drop_shard(struct qp_safetensors_writer *w)
{
    qp_file_writer_abandon(w->file);
    w->file = NULL;
    for (size_t i = 0; i < w->late_count; i++)
        qp_tensor_unref(w->late[i]);
    free(w->late);
    w->late = NULL;
    w->late_count = 0;
    w->late_bytes = 0;
    free(w->path);
    w->path = NULL;
    json_decref(w->header);
    w->header = NULL;
}

void qp_safetensors_abandon(struct qp_safetensors_writer *writer)
{
    if (!writer)
        return;
    drop_shard(writer);
    json_decref(writer->shard_of);
    free(writer->folder);
    free(writer);
}

static int open_shard(struct qp_safetensors_writer *w, uint64_t entry, struct qp_error *err)
{
    w->path = shard_path(w, w->shards + 1);
    w->header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    if (!w->path || !w->header)
        return qp_fail_memory(err, 0, w->folder);
    int r = qp_file_writer_open(w->path, &w->file, err);
    if (r < 0)
        return r;
    w->shards++;
    w->header_used = HEADER_BEGIN;
    uint64_t least = round_up(HEADER_BEGIN + entry, HEADER_PAGE);
    w->header_capacity = w->header_space > least ? w->header_space : least;
    w->data = 0;
    qp_auto_free char *blank = calloc(1, w->header_capacity);
    return blank ? qp_file_writer_add(w->file, blank, w->header_capacity, err)
                 : qp_fail_memory(err, w->header_capacity, w->path);
}

/* Writes a tensor's bytes at the end of the shard and its entry into the header. */
static int place(struct qp_safetensors_writer *w, const struct qp_tensor *t, struct qp_error *err)
{
    int r = qp_file_writer_add(w->file, t->data, t->bytes, err);
    if (r < 0)
        return r;
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", qp_dtype_name(t->dtype), "shape", shape, "data_offsets",
                              (json_int_t)w->data, (json_int_t)(w->data + t->bytes));
    if (!entry || json_object_set_new(w->header, t->name, entry) < 0)
        return qp_fail_memory(err, 0, t->name);
    w->data += t->bytes;
    return 0;
}

/* Places the tensors that waited, those with large elements first, so that all lie aligned. */
static int place_late(struct qp_safetensors_writer *w, struct qp_error *err)
{
    for (int bits = 64; bits >= 8; bits /= 2)
        for (size_t i = 0; i < w->late_count; i++)
            if (qp_dtype_bits(w->late[i]->dtype) == bits && place(w, w->late[i], err) < 0)
                return err->code;
    return 0;
}

/* The header's length and JSON, blanks up to the data. */
static int header_text(const struct qp_safetensors_writer *w, char **out, struct qp_error *err)
{
    qp_auto_free char *json = json_dumps(w->header, JSON_COMPACT);
    qp_auto_free char *text = malloc(w->header_capacity);
    if (!json || !text)
        return qp_fail_memory(err, w->header_capacity, w->path);
    size_t length = strlen(json);
    if (length > w->header_capacity - 8)
        return qp_fail(err, QP_ERR_STAGE, "%s: header of %zu bytes in a space of %llu", w->path, length,
                       (unsigned long long)w->header_capacity);
    for (int i = 0; i < 8; i++)
        text[i] = (char)((w->header_capacity - 8) >> (8 * i));
    memcpy(text + 8, json, length);
    memset(text + 8 + length, ' ', w->header_capacity - 8 - length);
    *out = text;
    text = NULL;
    return 0;
}

static int close_shard(struct qp_safetensors_writer *w, struct qp_error *err)
{
    qp_auto_free char *header = NULL;
    if (!w->file)
        return 0;
    if (place_late(w, err) < 0 || header_text(w, &header, err) < 0)
        return err->code;
    struct qp_file_writer *file = w->file;
    w->file = NULL;
    if (qp_file_writer_finish(file, header, w->header_capacity, err) < 0)
        return err->code;
    drop_shard(w);
    return 0;
}

static int keep_back(struct qp_safetensors_writer *w, struct qp_tensor *tensor, struct qp_error *err)
{
    struct qp_tensor **grown = realloc(w->late, (w->late_count + 1) * sizeof(struct qp_tensor *));
    if (!grown)
        return qp_fail_memory(err, (w->late_count + 1) * sizeof *grown, tensor->name);
    w->late = grown;
    w->late[w->late_count++] = qp_tensor_ref(tensor);
    w->late_bytes += tensor->bytes;
    return 0;
}

/* An upper bound of what a tensor's entry takes in the header; 0 without memory. */
static uint64_t entry_size(const struct qp_tensor *t)
{
    qp_auto_json json_t *name = json_string(t->name);
    qp_auto_free char *text = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    return text ? strlen(text) + ENTRY_WORDS + ENTRY_NUMBER * (uint64_t)(t->rank + 2) : 0;
}

static int check_tensor(const struct qp_safetensors_writer *w, const struct qp_tensor *t, struct qp_error *err)
{
    if (qp_dtype_bits(t->dtype) < 8)
        return qp_fail(err, QP_ERR_STAGE, "%s: %s cannot be stored in safetensors", t->name, qp_dtype_name(t->dtype));
    if (!qp_utf8_is_valid(t->name, strlen(t->name)))
        return qp_fail(err, QP_ERR_INPUT, "%s: the name of a tensor is no UTF-8; rename it", t->name);
    if (strcmp(t->name, "__metadata__") == 0 || json_object_get(w->shard_of, t->name))
        return qp_fail(err, QP_ERR_STAGE, "%s: written twice, or a name that the format reserves", t->name);
    return 0;
}

int qp_safetensors_put(struct qp_safetensors_writer *writer, struct qp_tensor *tensor, struct qp_error *err)
{
    struct qp_error local;
    struct qp_safetensors_writer *w = writer;
    err = err ? err : &local;
    if (check_tensor(w, tensor, err) < 0)
        return err->code;
    uint64_t entry = entry_size(tensor), placed = w->data + w->late_bytes;
    if (entry == 0)
        return qp_fail_memory(err, strlen(tensor->name), tensor->name);
    bool full = placed > 0 && (placed > w->shard_bytes || tensor->bytes > w->shard_bytes - placed);
    if (w->file && (full || entry > w->header_capacity - w->header_used) && close_shard(w, err) < 0)
        return err->code;
    if (!w->file && open_shard(w, entry, err) < 0)
        return err->code;
    if (json_object_set_new(w->shard_of, tensor->name, json_integer(w->shards)) < 0)
        return qp_fail_memory(err, 0, tensor->name);
    w->header_used += entry;
    w->total += tensor->bytes;
    return tensor->bytes % 8 == 0 ? place(w, tensor, err) : keep_back(w, tensor, err);
}

static char *final_name(const struct qp_safetensors_writer *w, int number)
{
    return w->shards == 1 ? strdup("model.safetensors")
                          : qp_format("model-%05d-of-%05d.safetensors", number, w->shards);
}

static int rename_shards(const struct qp_safetensors_writer *w, struct qp_error *err)
{
    for (int i = 1; i <= w->shards; i++) {
        qp_auto_free char *from = shard_path(w, i);
        qp_auto_free char *name = final_name(w, i);
        qp_auto_free char *to = name ? qp_join(w->folder, name) : NULL;
        if (!from || !to)
            return qp_fail_memory(err, 0, w->folder);
        if (rename(from, to) < 0)
            return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot rename to %s", from, to);
    }
    return 0;
}

static int write_index(const struct qp_safetensors_writer *w, struct qp_error *err)
{
    qp_auto_json json_t *index =
        json_pack("{s:{s:I}, s:{}}", "metadata", "total_size", (json_int_t)w->total, "weight_map");
    qp_auto_free char *path = qp_join(w->folder, "model.safetensors.index.json");
    json_t *map = json_object_get(index, "weight_map");
    if (!map || !path)
        return qp_fail_memory(err, 0, w->folder);
    const char *name;
    json_t *shard;
    json_object_foreach(w->shard_of, name, shard) {
        qp_auto_free char *file = final_name(w, (int)json_integer_value(shard));
        if (!file || json_object_set_new(map, name, json_string(file)) < 0)
            return qp_fail_memory(err, 0, w->folder);
    }
    return qp_write_json(path, index, err);
}

/* Closes the last shard, or makes the empty file that no tensor at all gives. */
static int close_last(struct qp_safetensors_writer *w, struct qp_error *err)
{
    if (w->shards == 0 && open_shard(w, 0, err) < 0)
        return err->code;
    return close_shard(w, err);
}

int qp_safetensors_finish(struct qp_safetensors_writer *writer, uint64_t *total, struct qp_error *err)
{
    struct qp_error local;
    err = err ? err : &local;
    int r = close_last(writer, err);
    if (r == 0)
        r = rename_shards(writer, err);
    if (r == 0 && writer->shards > 1)
        r = write_index(writer, err);
    if (r == 0)
        r = qp_sync_folder(writer->folder, err);
    if (r == 0 && total)
        *total = writer->total;
    qp_safetensors_abandon(writer);
    return r;
}
