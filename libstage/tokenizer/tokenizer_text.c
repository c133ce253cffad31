#include "libstage/tokenizer/tokenizer_text.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "libstage/base/checked.h"

/* Makes space for `more` elements after `used`; doubles, so that appending stays linear. */
static void *grown(void *old, size_t used, size_t more, size_t element, size_t *capacity)
{
    uint64_t need = 0, bytes = 0;
    if (!qp_add_u64(used, more, &need))
        return NULL;
    if (need <= *capacity)
        return old;
    if (need < *capacity * 2)
        need = *capacity * 2;
    if (need < 64)
        need = 64;
    if (!qp_mul_u64(need, element, &bytes))
        return NULL;
    void *new = realloc(old, bytes);
    if (new)
        *capacity = need;
    return new;
}

void qp_text_add(struct qp_text *text, const char *bytes, size_t size)
{
    if (text->failed || size == 0)
        return;
    char *capacity = grown(text->bytes, text->size, size, 1, &text->capacity);
    text->failed = !capacity;
    if (!capacity)
        return;
    text->bytes = capacity;
    memcpy(capacity + text->size, bytes, size);
    text->size += size;
}

/* How many bytes after a lead byte, and what the first of them may be (Unicode 14, table 3-7). */
static int followers(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return lead < 0x80                   ? 0
           : lead >= 0xc2 && lead < 0xe0 ? 1
           : lead >= 0xe0 && lead < 0xf0 ? 2
           : lead >= 0xf0 && lead < 0xf5 ? 3
                                         : -1;
}

/* Bytes of the character at `text`, or of the ill-formed part there, *good then false. */
static size_t character(const unsigned char *text, size_t size, bool *good)
{
    unsigned char low, high;
    int more = followers(text[0], &low, &high);
    size_t n = 1;
    while (more > 0 && n < size && text[n] >= low && text[n] <= high) {
        n++;
        more--;
        low = 0x80;
        high = 0xbf;
    }
    *good = more == 0;
    return n;
}

void qp_text_add_any(struct qp_text *text, const char *bytes, size_t size)
{
    size_t kept = 0;
    for (size_t at = 0; at < size;) {
        bool good;
        size_t n = character((const unsigned char *)bytes + at, size - at, &good);
        if (!good) {
            qp_text_add(text, bytes + kept, at - kept);
            qp_text_add(text, "\xef\xbf\xbd", 3);
            kept = at + n;
        }
        at += n;
    }
    qp_text_add(text, bytes + kept, size - kept);
}

void qp_text_cut(struct qp_text *text, struct qp_piece piece)
{
    if (text->failed || (piece.id == QP_NO_ID && piece.start == piece.end))
        return;
    struct qp_piece *capacity = grown(text->pieces, text->count, 1, sizeof *capacity, &text->piece_capacity);
    text->failed = !capacity;
    if (!capacity)
        return;
    text->pieces = capacity;
    capacity[text->count++] = piece;
}

void qp_text_clear(struct qp_text *text)
{
    free(text->bytes);
    free(text->pieces);
    *text = (struct qp_text){0};
}

void qp_ids_add_all(struct qp_ids *ids, const int32_t *more, size_t count)
{
    if (ids->failed || count == 0)
        return;
    int32_t *capacity = grown(ids->at, ids->count, count, sizeof *capacity, &ids->capacity);
    ids->failed = !capacity;
    if (!capacity)
        return;
    ids->at = capacity;
    memcpy(capacity + ids->count, more, count * sizeof *capacity);
    ids->count += count;
}

void qp_ids_add(struct qp_ids *ids, int32_t id)
{
    qp_ids_add_all(ids, &id, 1);
}

struct qp_string_slot {
    uint64_t hash;
    size_t start, size;
    int64_t value; /* -1: the slot is free */
};

/* The slot that holds the string, or the free one where it belongs. */
static struct qp_string_slot *slot_of(const struct qp_strings *map, uint64_t hash, const char *text, size_t size)
{
    for (size_t i = hash & map->mask;; i = (i + 1) & map->mask) {
        struct qp_string_slot *slot = &map->slots[i];
        if (slot->value < 0 || (slot->hash == hash && slot->size == size &&
                                (size == 0 || memcmp(map->keys.bytes + slot->start, text, size) == 0)))
            return slot;
    }
}

int64_t qp_strings_find(const struct qp_strings *map, const char *text, size_t size)
{
    return map->slots ? slot_of(map, XXH3_64bits(text, size), text, size)->value : -1;
}

static bool rehash(struct qp_strings *map)
{
    struct qp_strings wider = {.mask = map->slots ? map->mask * 2 + 1 : 63, .keys = map->keys};
    wider.slots = malloc((wider.mask + 1) * sizeof *wider.slots);
    if (!wider.slots)
        return false;
    for (size_t i = 0; i <= wider.mask; i++)
        wider.slots[i].value = -1;
    for (size_t i = 0; map->slots && i <= map->mask; i++) {
        const struct qp_string_slot *slot = &map->slots[i];
        if (slot->value >= 0)
            *slot_of(&wider, slot->hash, map->keys.bytes + slot->start, slot->size) = *slot;
    }
    free(map->slots);
    map->slots = wider.slots;
    map->mask = wider.mask;
    return true;
}

void qp_strings_add(struct qp_strings *map, const char *text, size_t size, int64_t value)
{
    if (map->failed)
        return;
    size_t start = map->keys.size;
    qp_text_add(&map->keys, text, size);
    bool full = !map->slots || (map->count + 1) * 2 > map->mask + 1;
    map->failed = map->keys.failed || (full && !rehash(map));
    if (map->failed)
        return;
    uint64_t hash = XXH3_64bits(text, size);
    *slot_of(map, hash, text, size) = (struct qp_string_slot){hash, start, size, value};
    map->count++;
}

void qp_strings_clear(struct qp_strings *map)
{
    qp_text_clear(&map->keys);
    free(map->slots);
    *map = (struct qp_strings){0};
}
