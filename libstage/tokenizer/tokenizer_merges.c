#include "libstage/tokenizer/tokenizer_merges.h"

#include <stdint.h>
#include <stdlib.h>

enum { MAX_TOKEN = 1024 };

struct merge {
    double score;
    int left_length, right_length; /* characters */
    uint32_t whole, left, right;
};

struct list {
    struct merge *at;
    size_t count, capacity;
};

static bool starts_character(char c)
{
    return ((unsigned char)c & 0xc0) != 0x80;
}

static int append(struct list *list, struct merge merge, struct qp_error *err)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 1024;
        struct merge *at = realloc(list->at, capacity * sizeof *at);
        if (!at)
            return qp_fail_memory(err, capacity * sizeof *at, "merges");
        list->at = at;
        list->capacity = capacity;
    }
    list->at[list->count++] = merge;
    return 0;
}

/* The index of a normal token, or -1. */
static json_int_t part(const struct qp_scored *pieces, const json_t *vocabulary, const char *text, size_t size)
{
    const json_t *id = json_object_getn(vocabulary, text, size);
    return id && pieces[json_integer_value(id)].normal ? json_integer_value(id) : -1;
}

static int cut(const struct qp_scored *pieces, size_t whole, const json_t *vocabulary, struct list *list,
               struct qp_error *err)
{
    const struct qp_scored *piece = &pieces[whole];
    if (piece->size > MAX_TOKEN)
        return qp_fail(err, QP_ERR_INPUT, "token %zu has %zu bytes; at most %d are merged", whole, piece->size,
                       MAX_TOKEN);
    int characters = 0, before = 1;
    for (size_t i = 0; i < piece->size; i++)
        characters += starts_character(piece->token[i]);
    for (size_t i = 1; i < piece->size; i++) {
        if (!starts_character(piece->token[i]))
            continue;
        json_int_t left = part(pieces, vocabulary, piece->token, i);
        json_int_t right = left < 0 ? -1 : part(pieces, vocabulary, piece->token + i, piece->size - i);
        struct merge merge = {piece->score,    before,         characters - before,
                              (uint32_t)whole, (uint32_t)left, (uint32_t)right};
        int r = right < 0 ? 0 : append(list, merge, err);
        if (r < 0)
            return r;
        before++;
    }
    return 0;
}

static int best_first(const void *a, const void *b)
{
    const struct merge *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    if (x->left_length != y->left_length)
        return x->left_length > y->left_length ? -1 : 1;
    if (x->right_length != y->right_length)
        return x->right_length > y->right_length ? -1 : 1;
    if (x->whole != y->whole)
        return x->whole < y->whole ? -1 : 1;
    return x->left != y->left ? (x->left < y->left ? -1 : 1) : (x->right > y->right) - (x->right < y->right);
}

int qp_merges_from_scores(const struct qp_scored *pieces, size_t count, const json_t *vocabulary, json_t *merges,
                          struct qp_error *err)
{
    struct list list = {0};
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        if (pieces[i].normal)
            r = cut(pieces, i, vocabulary, &list, err);
    if (r == 0 && list.count > 0)
        qsort(list.at, list.count, sizeof *list.at, best_first);
    for (size_t i = 0; r == 0 && i < list.count; i++)
        if (json_array_append_new(merges,
                                  json_pack("[ss]", pieces[list.at[i].left].token, pieces[list.at[i].right].token)) < 0)
            r = qp_fail_memory(err, list.count, "merges");
    free(list.at);
    return r;
}
