#include "libstage/base/names.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static size_t hash_of(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return (size_t)(hash ^ (hash >> 32));
}

/* The slot that has the name, or the free one where it belongs. */
static struct qp_name *slot_of(const struct qp_names *names, const char *text)
{
    size_t at = hash_of(text) & (names->capacity - 1);
    while (names->slots[at].text && strcmp(names->slots[at].text, text) != 0)
        at = (at + 1) & (names->capacity - 1);
    return &names->slots[at];
}

size_t qp_names_find(const struct qp_names *names, const char *text)
{
    const struct qp_name *slot = names->capacity ? slot_of(names, text) : NULL;
    return slot && slot->text ? slot->value : QP_NO_NAME;
}

static int grow_names(struct qp_names *names, struct qp_error *err)
{
    struct qp_names grown = {.count = names->count, .capacity = names->capacity ? 2 * names->capacity : 64};
    grown.slots = calloc(grown.capacity, sizeof *grown.slots);
    if (!grown.slots)
        return qp_fail_memory(err, grown.capacity * sizeof *grown.slots, "a map of names");
    for (size_t i = 0; i < names->capacity; i++)
        if (names->slots[i].text)
            *slot_of(&grown, names->slots[i].text) = names->slots[i];
    free(names->slots);
    *names = grown;
    return 0;
}

int qp_names_set(struct qp_names *names, const char *text, size_t value, struct qp_error *err)
{
    if (2 * (names->count + 1) > names->capacity) {
        int r = grow_names(names, err);
        if (r < 0)
            return r;
    }
    struct qp_name *slot = slot_of(names, text);
    names->count += !slot->text;
    *slot = (struct qp_name){text, value};
    return 0;
}

int qp_names_add(struct qp_names *names, const char *text, size_t value, struct qp_error *err)
{
    return qp_names_find(names, text) == QP_NO_NAME ? qp_names_set(names, text, value, err) : 0;
}

void qp_names_clear(struct qp_names *names)
{
    free(names->slots);
    *names = (struct qp_names){0};
}
