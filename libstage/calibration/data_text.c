#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/calibration/data_ids.h"
#include "libstage/tokenizer/tokenizer_text.h"
#include "libstage/tensor/tensor.h"

int qp_ids_from_text(const char *path, const struct qp_tokenizer *tokenizer, struct qp_id_runs *out,
                     struct qp_error *err)
{
    struct qp_storage *file = NULL;
    size_t count = 0;
    int r = qp_storage_map(path, &file, err);
    if (r < 0)
        return r;
    r = qp_tokenizer_encode(tokenizer, file->base, file->size, true, &out->ids, &count, err);
    if (r < 0 && err)
        qp_wrap(err, "%s", path);
    qp_storage_unref(file);
    out->count = 1;
    out->length = (int64_t)count;
    return r;
}

static int add_line(const char *path, size_t number, const char *line, size_t size,
                    const struct qp_tokenizer *tokenizer, struct qp_ids *all, struct qp_error *err)
{
    json_error_t at;
    qp_auto_json json_t *object = json_loadb(line, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &at);
    if (!object)
        return qp_fail(err, QP_ERR_INPUT, "%s:%zu: not valid JSON: %s (at byte %d of the line)", path, number, at.text,
                       at.position);
    const json_t *text = json_object_get(object, "text");
    if (!json_is_string(text))
        return qp_fail(err, QP_ERR_INPUT, "%s:%zu: expected an object with a string under \"text\"", path, number);
    qp_auto_free int32_t *ids = NULL;
    size_t count = 0;
    int r = qp_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), true, &ids, &count, err);
    if (r < 0)
        return err ? qp_wrap(err, "%s:%zu", path, number) : r;
    qp_ids_add_all(all, ids, count);
    return all->failed ? qp_fail_memory(err, all->count * sizeof *all->at, "token ids") : 0;
}

static bool is_blank(const char *line, size_t size)
{
    size_t i = 0;
    while (i < size && memchr(" \t\r", line[i], 3))
        i++;
    return i == size;
}

int qp_ids_from_jsonl(const char *path, const struct qp_tokenizer *tokenizer, struct qp_id_runs *out,
                      struct qp_error *err)
{
    struct qp_storage *file = NULL;
    struct qp_ids all = {0};
    int r = qp_storage_map(path, &file, err);
    if (r < 0)
        return r;
    const char *text = file->base;
    size_t number = 1;
    for (size_t at = 0, end; r == 0 && at < file->size; at = end + 1, number++) {
        const char *newline = memchr(text + at, '\n', file->size - at);
        end = newline ? (size_t)(newline - text) : file->size;
        if (!is_blank(text + at, end - at))
            r = add_line(path, number, text + at, end - at, tokenizer, &all, err);
    }
    qp_storage_unref(file);
    if (r < 0)
        free(all.at);
    else
        *out = (struct qp_id_runs){all.at, 1, (int64_t)all.count};
    return r;
}
