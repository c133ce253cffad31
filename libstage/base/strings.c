#include "libstage/base/strings.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "libstage/base/memory.h"

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
                                (size == 0 || memcmp(map->keys + slot->start, text, size) == 0)))
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
            *slot_of(&wider, slot->hash, map->keys + slot->start, slot->size) = *slot;
    }
    free(map->slots);
    map->slots = wider.slots;
    map->mask = wider.mask;
    return true;
}

static bool add_key(struct qp_strings *map, const char *text, size_t size)
{
    if (size == 0)
        return true;
    char *wider = qp_grown(map->keys, map->keys_size, size, 1, &map->keys_capacity);
    if (!wider)
        return false;
    map->keys = wider;
    memcpy(wider + map->keys_size, text, size);
    map->keys_size += size;
    return true;
}

void qp_strings_add(struct qp_strings *map, const char *text, size_t size, int64_t value)
{
    if (map->failed)
        return;
    size_t start = map->keys_size;
    bool full = !map->slots || (map->count + 1) * 2 > map->mask + 1;
    map->failed = !add_key(map, text, size) || (full && !rehash(map));
    if (map->failed)
        return;
    uint64_t hash = XXH3_64bits(text, size);
    *slot_of(map, hash, text, size) = (struct qp_string_slot){hash, start, size, value};
    map->count++;
}

void qp_strings_clear(struct qp_strings *map)
{
    free(map->keys);
    free(map->slots);
    *map = (struct qp_strings){0};
}
