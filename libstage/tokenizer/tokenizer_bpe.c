#include "libstage/tokenizer/tokenizer_bpe_internal.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"

static int by_value(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int parse_vocabulary(struct qp_bpe *bpe, const json_t *vocabulary, const char *path, struct qp_error *err)
{
    if (!json_is_object(vocabulary) || json_object_size(vocabulary) == 0)
        return qp_fail(err, QP_ERR_INPUT, "%s: model.vocab must be a mapping of tokens to ids, and not empty", path);
    const char *token;
    json_t *id;
    json_object_foreach((json_t *)vocabulary, token, id) {
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > INT32_MAX)
            return qp_fail(err, QP_ERR_INPUT, "%s: model.vocab: the id of \"%.100s\" must be an integer from 0 to %d",
                           path, token, INT32_MAX);
        qp_strings_add(&bpe->vocabulary, token, strlen(token), value);
        qp_ids_add(&bpe->ids, (int32_t)value);
    }
    if (bpe->vocabulary.failed || bpe->ids.failed)
        return qp_fail_memory(err, json_object_size(vocabulary), "a vocabulary");
    qsort(bpe->ids.at, bpe->ids.count, sizeof *bpe->ids.at, by_value);
    for (size_t i = 1; i < bpe->ids.count; i++)
        if (bpe->ids.at[i] == bpe->ids.at[i - 1])
            return qp_fail(err, QP_ERR_INPUT, "%s: model.vocab: two tokens have the id %d", path, bpe->ids.at[i]);
    return 0;
}

/* The halves of a merge, "left right" or ["left", "right"]; false when it is neither. */
static bool halves(const json_t *merge, const char **left, size_t *left_size, const char **right, size_t *right_size)
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' '))
            return false;
        *left = text;
        *left_size = (size_t)(space - text);
        *right = space + 1;
        *right_size = strlen(space + 1);
        return true;
    }
    const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
    if (json_array_size(merge) != 2 || !json_is_string(a) || !json_is_string(b))
        return false;
    *left = json_string_value(a);
    *left_size = json_string_length(a);
    *right = json_string_value(b);
    *right_size = json_string_length(b);
    return true;
}

static int id_of(const struct qp_bpe *bpe, const char *token, size_t size, const char *path, size_t rank, int32_t *out,
                 struct qp_error *err)
{
    *out = qp_bpe_id(bpe, token, size);
    return *out != QP_NO_ID ? 0
                            : qp_fail(err, QP_ERR_INPUT, "%s: model.merges[%zu]: \"%.*s\" is not in model.vocab", path,
                                      rank, size < 100 ? (int)size : 100, token);
}

static int add_merge(struct qp_bpe *bpe, const json_t *merge, size_t rank, const char *path, struct qp_error *err)
{
    const char *left, *right;
    size_t left_size, right_size;
    if (!halves(merge, &left, &left_size, &right, &right_size))
        return qp_fail(err, QP_ERR_INPUT, "%s: model.merges[%zu] must be \"left right\" or [\"left\", \"right\"]", path,
                       rank);
    qp_auto_free char *whole = malloc(left_size + right_size + 1);
    if (!whole)
        return qp_fail_memory(err, left_size + right_size, "a merge");
    memcpy(whole, left, left_size);
    memcpy(whole + left_size, right, right_size);
    int32_t a = QP_NO_ID, b = QP_NO_ID, id = QP_NO_ID;
    int r = id_of(bpe, left, left_size, path, rank, &a, err);
    if (r == 0)
        r = id_of(bpe, right, right_size, path, rank, &b, err);
    if (r == 0)
        r = id_of(bpe, whole, left_size + right_size, path, rank, &id, err);
    if (r < 0)
        return r;
    *qp_merge_slot(bpe, a, b) = (struct qp_merge){a, b, (uint32_t)rank};
    bpe->made[rank] = id;
    return 0;
}

static int parse_merges(struct qp_bpe *bpe, const json_t *merges, const char *path, struct qp_error *err)
{
    size_t count = json_array_size(merges), slots = 16;
    if (!json_is_array(merges) || count > INT32_MAX)
        return qp_fail(err, QP_ERR_INPUT, "%s: model.merges must be a list of pairs of tokens", path);
    while (slots < count * 2)
        slots *= 2;
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    bpe->made = malloc((count + 1) * sizeof *bpe->made);
    if (!bpe->merges || !bpe->made)
        return qp_fail_memory(err, slots * sizeof *bpe->merges, "merges");
    bpe->mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        bpe->merges[i].left = QP_NO_ID;
    int r = 0;
    for (size_t rank = 0; r == 0 && rank < count; rank++)
        r = add_merge(bpe, json_array_get(merges, rank), rank, path, err);
    return r;
}

static int flag(const json_t *model, const char *key, const char *path, bool *out, struct qp_error *err)
{
    const json_t *value = json_object_get(model, key);
    *out = json_is_true(value);
    return !value || json_is_null(value) || json_is_boolean(value)
               ? 0
               : qp_fail(err, QP_ERR_INPUT, "%s: model.%s must be true or false", path, key);
}

static int parse_flags(struct qp_bpe *bpe, const json_t *model, const char *path, struct qp_error *err)
{
    int r = flag(model, "byte_fallback", path, &bpe->byte_fallback, err);
    if (r == 0)
        r = flag(model, "fuse_unk", path, &bpe->fuse_unknown, err);
    if (r == 0)
        r = flag(model, "ignore_merges", path, &bpe->ignore_merges, err);
    return r;
}

/* What would change ids and is not supported must be absent, null, empty or 0. */
static int check_absent(const json_t *model, const char *path, struct qp_error *err)
{
    static const char *const keys[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = json_object_get(model, keys[i]);
        bool empty = !value || json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0) ||
                     (json_is_number(value) && json_number_value(value) == 0);
        if (!empty)
            return qp_fail(err, QP_ERR_INPUT, "%s: model.%s is not supported", path, keys[i]);
    }
    return 0;
}

static int parse_unknown(struct qp_bpe *bpe, const json_t *model, const char *path, struct qp_error *err)
{
    const json_t *token = json_object_get(model, "unk_token");
    bpe->unknown_id = QP_NO_ID;
    if (!token || json_is_null(token))
        return 0;
    if (!json_is_string(token))
        return qp_fail(err, QP_ERR_INPUT, "%s: model.unk_token must be a string or null", path);
    bpe->unknown = strdup(json_string_value(token));
    if (!bpe->unknown)
        return qp_fail_memory(err, json_string_length(token), "a token");
    bpe->unknown_id = qp_bpe_id(bpe, bpe->unknown, strlen(bpe->unknown));
    return 0;
}

static void find_bytes(struct qp_bpe *bpe)
{
    for (int b = 0; b < 256; b++) {
        char token[8];
        snprintf(token, sizeof token, "<0x%02X>", b);
        bpe->bytes[b] = qp_bpe_id(bpe, token, 6);
    }
}

static int parse(struct qp_bpe *bpe, const json_t *model, const char *path, struct qp_error *err)
{
    int r = parse_flags(bpe, model, path, err);
    if (r == 0)
        r = check_absent(model, path, err);
    if (r == 0)
        r = parse_vocabulary(bpe, json_object_get(model, "vocab"), path, err);
    if (r == 0)
        r = parse_unknown(bpe, model, path, err);
    if (r == 0)
        r = parse_merges(bpe, json_object_get(model, "merges"), path, err);
    if (r == 0)
        find_bytes(bpe);
    return r;
}

int qp_bpe_parse(const json_t *model, const char *path, struct qp_bpe **out, struct qp_error *err)
{
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model) || (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0)))
        return qp_fail(err, QP_ERR_INPUT, "%s: model: expected the type BPE, found %.100s", path,
                       json_is_string(type) ? json_string_value(type) : "none");
    struct qp_bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe)
        return qp_fail_memory(err, sizeof *bpe, "a tokenizer");
    int r = parse(bpe, model, path, err);
    if (r < 0)
        qp_bpe_free(bpe);
    else
        *out = bpe;
    return r;
}

void qp_bpe_free(struct qp_bpe *bpe)
{
    if (!bpe)
        return;
    qp_strings_clear(&bpe->vocabulary);
    free(bpe->ids.at);
    free(bpe->merges);
    free(bpe->made);
    free(bpe->unknown);
    free(bpe);
}

int32_t qp_bpe_id(const struct qp_bpe *bpe, const char *token, size_t size)
{
    return (int32_t)qp_strings_find(&bpe->vocabulary, token, size);
}

const struct qp_ids *qp_bpe_ids(const struct qp_bpe *bpe)
{
    return &bpe->ids;
}
