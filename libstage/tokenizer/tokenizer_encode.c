/* From pieces of text to ids: a linked list of symbols, a heap of the merges that could be done, and a cache of words.
 * The order of merges is that of the `tokenizers` package: lowest rank first, then leftmost. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/tokenizer/tokenizer_bpe_internal.h"

#define NONE UINT32_MAX

enum { CACHED_BYTES = 64, CACHED_WORDS = 1 << 18 };

struct symbol {
    int32_t id; /* QP_NO_ID once merged into the one before */
    uint32_t previous, next;
};

struct encoder {
    const struct qp_bpe *bpe;
    struct symbol *symbols;
    uint32_t count;
    uint64_t *heap; /* rank << 32 | left symbol, the least first; at most two a symbol: a merge takes one, adds two */
    size_t heap_count;
    size_t capacity;         /* symbols; the heap has twice as many */
    struct qp_strings words; /* word -> index in `known` of its number of ids, which follow it */
    struct qp_ids known;
    struct qp_ids *ids;
    struct qp_error *err;
};

static void sink(struct encoder *in, size_t at)
{
    uint64_t moved = in->heap[at];
    for (size_t child = at * 2 + 1; child < in->heap_count; child = at * 2 + 1) {
        if (child + 1 < in->heap_count && in->heap[child + 1] < in->heap[child])
            child++;
        if (moved <= in->heap[child])
            break;
        in->heap[at] = in->heap[child];
        at = child;
    }
    in->heap[at] = moved;
}

static uint64_t pop(struct encoder *in)
{
    uint64_t top = in->heap[0];
    in->heap[0] = in->heap[--in->heap_count];
    sink(in, 0);
    return top;
}

static void push(struct encoder *in, uint64_t entry)
{
    size_t at = in->heap_count++;
    for (; at > 0 && entry < in->heap[(at - 1) / 2]; at = (at - 1) / 2)
        in->heap[at] = in->heap[(at - 1) / 2];
    in->heap[at] = entry;
}

/* The merge of a symbol with the next one, or NULL. */
static const struct qp_merge *merge_at(const struct encoder *in, uint32_t left)
{
    const struct symbol *symbol = &in->symbols[left];
    if (symbol->id == QP_NO_ID || symbol->next == NONE)
        return NULL;
    const struct qp_merge *merge = qp_merge_slot(in->bpe, symbol->id, in->symbols[symbol->next].id);
    return merge->left == QP_NO_ID ? NULL : merge;
}

static void offer(struct encoder *in, uint32_t left)
{
    const struct qp_merge *merge = left == NONE ? NULL : merge_at(in, left);
    if (merge)
        push(in, (uint64_t)merge->rank << 32 | left);
}

static void join(struct encoder *in, uint32_t left, int32_t id)
{
    struct symbol *symbol = &in->symbols[left], *right = &in->symbols[symbol->next];
    symbol->id = id;
    symbol->next = right->next;
    right->id = QP_NO_ID;
    if (right->next != NONE)
        in->symbols[right->next].previous = left;
    offer(in, symbol->previous);
    offer(in, left);
}

static void merge_all(struct encoder *in)
{
    in->heap_count = 0;
    for (uint32_t i = 0; i + 1 < in->count; i++) {
        const struct qp_merge *merge = merge_at(in, i);
        if (merge)
            in->heap[in->heap_count++] = (uint64_t)merge->rank << 32 | i;
    }
    for (size_t i = in->heap_count / 2; i-- > 0;)
        sink(in, i);
    while (in->heap_count > 0) {
        uint64_t top = pop(in);
        uint32_t left = (uint32_t)top;
        int32_t id = in->bpe->made[top >> 32];
        const struct qp_merge *merge = merge_at(in, left);
        if (merge && in->bpe->made[merge->rank] == id) /* otherwise the symbols have changed since it was offered */
            join(in, left, id);
    }
}

static void add_symbol(struct encoder *in, int32_t id)
{
    uint32_t at = in->count++;
    in->symbols[at] = (struct symbol){id, at == 0 ? NONE : at - 1, NONE};
    if (at > 0)
        in->symbols[at - 1].next = at;
}

static bool add_bytes(struct encoder *in, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (in->bpe->bytes[(unsigned char)text[i]] == QP_NO_ID)
            return false;
    for (size_t i = 0; i < size; i++)
        add_symbol(in, in->bpe->bytes[(unsigned char)text[i]]);
    return true;
}

/* The characters of a word as symbols. Unknown tokens wait for the next known character, and the bytes of an unknown
 * character overtake them, as in the `tokenizers` package; without an unknown token the character is dropped. */
static int split_word(struct encoder *in, const char *word, size_t size)
{
    const struct qp_bpe *bpe = in->bpe;
    bool waiting = false;
    in->count = 0;
    for (size_t at = 0, end; at < size; at = end) {
        for (end = at + 1; end < size && ((unsigned char)word[end] & 0xc0) == 0x80;)
            end++;
        int32_t id = qp_bpe_id(bpe, word + at, end - at);
        if (id == QP_NO_ID && ((bpe->byte_fallback && add_bytes(in, word + at, end - at)) || !bpe->unknown))
            continue;
        if (id == QP_NO_ID && bpe->unknown_id == QP_NO_ID)
            return qp_fail(in->err, QP_ERR_INPUT,
                           "the text has \"%.*s\", which is not in the vocabulary, and neither is unk_token \"%.100s\"",
                           (int)(end - at), word + at, bpe->unknown);
        if (waiting && (id != QP_NO_ID || !bpe->fuse_unknown))
            add_symbol(in, bpe->unknown_id);
        waiting = id == QP_NO_ID;
        if (!waiting)
            add_symbol(in, id);
    }
    if (waiting)
        add_symbol(in, bpe->unknown_id);
    return 0;
}

static int make_space(struct encoder *in, size_t symbols)
{
    if (symbols <= in->capacity)
        return 0;
    if (symbols >= NONE)
        return qp_fail(in->err, QP_ERR_INPUT, "a word of %zu bytes; at most %u are tokenized: cut the text", symbols,
                       NONE);
    size_t capacity = symbols < 256 ? 256 : symbols;
    free(in->symbols);
    free(in->heap);
    in->symbols = malloc(capacity * sizeof *in->symbols);
    in->heap = malloc(2 * capacity * sizeof *in->heap);
    in->capacity = in->symbols && in->heap ? capacity : 0;
    return in->capacity
               ? 0
               : qp_fail_memory(in->err, capacity * (sizeof *in->symbols + 2 * sizeof *in->heap), "tokenizing");
}

/* Appends the ids of a word, and returns how many. */
static size_t add_merged(struct encoder *in)
{
    size_t before = in->ids->count;
    for (uint32_t i = in->count ? 0 : NONE; i != NONE; i = in->symbols[i].next)
        qp_ids_add(in->ids, in->symbols[i].id);
    return in->ids->count - before;
}

static void remember(struct encoder *in, const char *word, size_t size, size_t count)
{
    if (size > CACHED_BYTES || in->words.count >= CACHED_WORDS)
        return;
    qp_strings_add(&in->words, word, size, (int64_t)in->known.count);
    qp_ids_add(&in->known, (int32_t)count);
    qp_ids_add_all(&in->known, in->ids->at + in->ids->count - count, count);
}

static int encode_word(struct encoder *in, const char *word, size_t size)
{
    int64_t known = size <= CACHED_BYTES ? qp_strings_find(&in->words, word, size) : -1;
    if (known >= 0) {
        qp_ids_add_all(in->ids, in->known.at + known + 1, (size_t)in->known.at[known]);
        return 0;
    }
    int32_t whole = in->bpe->ignore_merges ? qp_bpe_id(in->bpe, word, size) : QP_NO_ID;
    if (whole != QP_NO_ID) {
        qp_ids_add(in->ids, whole);
        return 0;
    }
    int r = make_space(in, size);
    if (r == 0)
        r = split_word(in, word, size);
    if (r < 0)
        return r;
    merge_all(in);
    remember(in, word, size, add_merged(in));
    return in->ids->failed || in->words.failed || in->known.failed ? qp_fail_memory(in->err, size, "token ids") : 0;
}

int qp_bpe_encode(const struct qp_bpe *bpe, const struct qp_text *text, struct qp_ids *ids, struct qp_error *err)
{
    struct encoder in = {.bpe = bpe, .ids = ids, .err = err};
    int r = 0;
    for (size_t i = 0; r == 0 && i < text->count; i++) {
        const struct qp_piece *piece = &text->pieces[i];
        if (piece->id != QP_NO_ID)
            qp_ids_add(ids, piece->id);
        else
            r = encode_word(&in, text->bytes + piece->start, piece->end - piece->start);
    }
    free(in.symbols);
    free(in.heap);
    qp_strings_clear(&in.words);
    free(in.known.at);
    return r == 0 && ids->failed ? qp_fail_memory(err, text->size, "token ids") : r;
}
