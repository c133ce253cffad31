#include "libstage/tokenizer/tokenizer_added.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* \w as Rust's regex crate reads it. */
static const char WORD[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]";

struct token {
    int32_t id;
    bool single_word, lstrip, rstrip, normalized;
};

/* The tokens that are looked for at the same time. */
struct set {
    struct qp_strings contents; /* content -> index of the token */
    bool starts[256];           /* by the first byte */
    size_t *lengths, count;     /* of contents, each once, the longest first */
};

struct qp_added {
    struct token *tokens;
    size_t count;
    struct set sets[2]; /* found before and after normalizing */
    struct qp_pattern *word, *space;
    int64_t vocabulary;
};

/* What a search for the tokens of one set needs. */
struct search {
    const struct qp_added *added;
    const struct set *set;
    struct qp_matcher *word, *space;
    struct qp_error *err;
};

static int flag(const json_t *json, const char *key, bool missing, size_t index, const char *path, bool *out,
                struct qp_error *err)
{
    const json_t *value = json_object_get(json, key);
    *out = value ? json_is_true(value) : missing;
    return !value || json_is_boolean(value)
               ? 0
               : qp_fail(err, QP_ERR_INPUT, "%s: added_tokens[%zu].%s must be true or false", path, index, key);
}

static int parse_flags(const json_t *json, size_t index, const char *path, struct token *token, struct qp_error *err)
{
    bool special;
    int r = flag(json, "special", false, index, path, &special, err);
    if (r == 0)
        r = flag(json, "single_word", false, index, path, &token->single_word, err);
    if (r == 0)
        r = flag(json, "lstrip", false, index, path, &token->lstrip, err);
    if (r == 0)
        r = flag(json, "rstrip", false, index, path, &token->rstrip, err);
    if (r == 0)
        r = flag(json, "normalized", !special, index, path, &token->normalized, err);
    return r;
}

static int parse_token(const json_t *json, size_t index, const char *path, const struct qp_bpe *bpe,
                       struct token *token, struct qp_error *err)
{
    const json_t *content = json_object_get(json, "content"), *id = json_object_get(json, "id");
    json_int_t value = json_integer_value(id);
    if (!json_is_string(content))
        return qp_fail(err, QP_ERR_INPUT, "%s: added_tokens[%zu].content must be a string", path, index);
    if (!json_is_integer(id) || value < 0 || value >= INT32_MAX)
        return qp_fail(err, QP_ERR_INPUT, "%s: added_tokens[%zu].id must be an integer from 0 to %d", path, index,
                       INT32_MAX - 1);
    int32_t there = qp_bpe_id(bpe, json_string_value(content), json_string_length(content));
    if (there != QP_NO_ID && there != value)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: added_tokens[%zu]: \"%.100s\" has the id %lld here and %d in model.vocab", path, index,
                       json_string_value(content), (long long)value, there);
    token->id = (int32_t)value;
    return parse_flags(json, index, path, token, err);
}

/* Puts a token in its set, under its content there: the normalized one if it is looked for in normalized text. */
static int add_content(struct qp_added *added, const json_t *json, size_t index, const char *path,
                       const struct qp_steps *normalizer, struct qp_error *err)
{
    const char *content = json_string_value(json_object_get(json, "content"));
    struct set *set = &added->sets[added->tokens[index].normalized];
    struct qp_text text = {0};
    qp_text_add(&text, content, strlen(content));
    qp_text_cut(&text, (struct qp_piece){0, text.size, QP_NO_ID, true});
    int r = added->tokens[index].normalized ? qp_steps_apply(normalizer, &text, err) : 0;
    bool there = r == 0 && qp_strings_find(&set->contents, text.bytes, text.size) >= 0;
    if (there && !added->tokens[index].normalized)
        r = qp_fail(err, QP_ERR_INPUT, "%s: added_tokens[%zu]: \"%.100s\" is there twice", path, index, content);
    if (r == 0 && text.size > 0 && !there) {
        set->starts[(unsigned char)text.bytes[0]] = true;
        set->lengths[set->count++] = text.size;
        qp_strings_add(&set->contents, text.bytes, text.size, (int64_t)index);
    }
    if (r == 0 && (text.failed || set->contents.failed))
        r = qp_fail_memory(err, text.size, "an added token");
    qp_text_clear(&text);
    return r;
}

static int longest_first(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x < y) - (x > y);
}

static void sort_lengths(struct set *set)
{
    if (set->count == 0)
        return;
    qsort(set->lengths, set->count, sizeof *set->lengths, longest_first);
    size_t kept = 1;
    for (size_t i = 1; i < set->count; i++)
        if (set->lengths[i] != set->lengths[kept - 1])
            set->lengths[kept++] = set->lengths[i];
    set->count = kept;
}

static int by_value(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static bool has(const struct qp_ids *ids, int32_t id)
{
    return ids->count > 0 && bsearch(&id, ids->at, ids->count, sizeof id, by_value);
}

/* Ids must be one token's each. */
static int check_ids(struct qp_added *added, const json_t *json, const char *path, const struct qp_bpe *bpe,
                     struct qp_error *err)
{
    const struct qp_ids *vocabulary = qp_bpe_ids(bpe);
    struct qp_ids own = {0};
    for (size_t i = 0; i < added->count; i++)
        qp_ids_add(&own, added->tokens[i].id);
    int r = own.failed ? qp_fail_memory(err, added->count, "added tokens") : 0;
    if (own.count > 0)
        qsort(own.at, own.count, sizeof *own.at, by_value);
    for (size_t i = 1; r == 0 && i < own.count; i++)
        if (own.at[i] == own.at[i - 1])
            r = qp_fail(err, QP_ERR_INPUT, "%s: added_tokens: two tokens have the id %d", path, own.at[i]);
    for (size_t i = 0; r == 0 && i < added->count; i++) {
        const char *content = json_string_value(json_object_get(json_array_get(json, i), "content"));
        if (qp_bpe_id(bpe, content, strlen(content)) == QP_NO_ID && has(vocabulary, added->tokens[i].id))
            r = qp_fail(err, QP_ERR_INPUT,
                        "%s: added_tokens[%zu]: the id %d of \"%.100s\" is another token's in model.vocab", path, i,
                        added->tokens[i].id, content);
    }
    int64_t highest = vocabulary->at[vocabulary->count - 1];
    if (own.count > 0 && own.at[own.count - 1] > highest)
        highest = own.at[own.count - 1];
    added->vocabulary = highest + 1;
    free(own.at);
    return r;
}

static int parse(struct qp_added *added, const json_t *json, const char *path, const struct qp_bpe *bpe,
                 const struct qp_steps *normalizer, struct qp_error *err)
{
    size_t count = json_array_size(json);
    added->tokens = calloc(count + 1, sizeof *added->tokens);
    for (int i = 0; i < 2; i++)
        added->sets[i].lengths = calloc(count + 1, sizeof(size_t));
    if (!added->tokens || !added->sets[0].lengths || !added->sets[1].lengths)
        return qp_fail_memory(err, count * sizeof *added->tokens, "added tokens");
    int r = 0;
    for (; r == 0 && added->count < count; added->count += r == 0) {
        const json_t *token = json_array_get(json, added->count);
        r = parse_token(token, added->count, path, bpe, &added->tokens[added->count], err);
        if (r == 0)
            r = add_content(added, token, added->count, path, normalizer, err);
    }
    for (int i = 0; i < 2; i++)
        sort_lengths(&added->sets[i]);
    if (r == 0)
        r = qp_pattern_regex(WORD, sizeof WORD - 1, &added->word, err);
    if (r == 0)
        r = qp_pattern_regex("\\s", 2, &added->space, err);
    return r < 0 ? r : check_ids(added, json, path, bpe, err);
}

int qp_added_parse(const json_t *json, const char *path, const struct qp_bpe *bpe, const struct qp_steps *normalizer,
                   struct qp_added **out, struct qp_error *err)
{
    if (json && !json_is_null(json) && !json_is_array(json))
        return qp_fail(err, QP_ERR_INPUT, "%s: added_tokens must be a list", path);
    struct qp_added *added = calloc(1, sizeof *added);
    if (!added)
        return qp_fail_memory(err, sizeof *added, "added tokens");
    int r = parse(added, json, path, bpe, normalizer, err);
    if (r < 0)
        qp_added_free(added);
    else
        *out = added;
    return r;
}

void qp_added_free(struct qp_added *added)
{
    if (!added)
        return;
    for (int i = 0; i < 2; i++) {
        qp_strings_clear(&added->sets[i].contents);
        free(added->sets[i].lengths);
    }
    qp_pattern_free(added->word);
    qp_pattern_free(added->space);
    free(added->tokens);
    free(added);
}

int64_t qp_added_vocabulary(const struct qp_added *added)
{
    return added->vocabulary;
}

/* The token at the start of a text, and its size; NULL when there is none. */
static const struct token *token_at(const struct search *in, const char *text, size_t size, size_t *length)
{
    if (!in->set->starts[(unsigned char)text[0]])
        return NULL;
    for (size_t i = 0; i < in->set->count; i++) {
        *length = in->set->lengths[i];
        int64_t index = *length <= size ? qp_strings_find(&in->set->contents, text, *length) : -1;
        if (index >= 0)
            return &in->added->tokens[index];
    }
    return NULL;
}

static bool continues(const char *text, size_t at)
{
    return ((unsigned char)text[at] & 0xc0) == 0x80;
}

/* The bytes of the character before or after `at` if it is of a class, otherwise 0; 0 also at the ends of the text. */
static size_t is_at(struct qp_matcher *class, const char *text, size_t size, size_t at, bool before)
{
    size_t start = at, end = at, found = 0, found_end = 0;
    if (before)
        while (start > 0 && continues(text, --start))
            ;
    else if (end < size)
        for (end++; end < size && continues(text, end);)
            end++;
    qp_matcher_start(class, text + start, end - start);
    return start < end && qp_matcher_next(class, &found, &found_end, NULL) > 0 ? end - start : 0;
}

/* Cuts one piece: text before a token, the token, and what is left. */
static void cut_piece(const struct search *in, const char *text, size_t size, struct qp_piece piece,
                      struct qp_text *out)
{
    size_t done = 0, length = 0;
    for (size_t at = 0; at < size;) {
        const struct token *token = token_at(in, text + at, size - at, &length);
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, end = at + length, n;
        at = end;
        if (token->single_word && (is_at(in->word, text, size, start, true) || is_at(in->word, text, size, end, false)))
            continue;
        while (token->lstrip && start > done && (n = is_at(in->space, text, size, start, true)))
            start -= n;
        while (token->rstrip && (n = is_at(in->space, text, size, end, false)))
            end += n;
        if (start > done)
            qp_text_cut(out,
                        (struct qp_piece){piece.start + done, piece.start + start, QP_NO_ID, piece.first && done == 0});
        qp_text_cut(out, (struct qp_piece){piece.start + start, piece.start + end, token->id, false});
        done = end;
    }
    if (done < size)
        qp_text_cut(out, (struct qp_piece){piece.start + done, piece.end, QP_NO_ID, piece.first && done == 0});
}

static int cut(const struct search *in, struct qp_text *text)
{
    struct qp_text out = {0};
    for (size_t i = 0; i < text->count; i++) {
        struct qp_piece piece = text->pieces[i];
        if (piece.id == QP_NO_ID)
            cut_piece(in, text->bytes + piece.start, piece.end - piece.start, piece, &out);
        else
            qp_text_cut(&out, piece);
    }
    if (out.failed) {
        qp_text_clear(&out);
        return qp_fail_memory(in->err, text->size, "the pieces of a text");
    }
    free(text->pieces);
    text->pieces = out.pieces;
    text->count = out.count;
    text->piece_capacity = out.piece_capacity;
    return 0;
}

int qp_added_cut(const struct qp_added *added, bool normalized, struct qp_text *text, struct qp_error *err)
{
    struct search in = {.added = added, .set = &added->sets[normalized], .err = err};
    if (in.set->count == 0)
        return 0;
    int r = qp_matcher_new(added->word, &in.word, err);
    if (r == 0)
        r = qp_matcher_new(added->space, &in.space, err);
    if (r == 0)
        r = cut(&in, text);
    qp_matcher_free(in.word);
    qp_matcher_free(in.space);
    return r;
}
