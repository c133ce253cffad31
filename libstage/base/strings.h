/* Maps from strings to numbers. Growing never fails at once: the first allocation that fails sets `failed`, later calls
 * do nothing, and who fills a map checks `failed` at the end. All-zero is an empty map. */
#ifndef QUANTPIPE_BASE_STRINGS_H
#define QUANTPIPE_BASE_STRINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A map from strings, which it copies, to numbers that are not negative. */
struct qp_strings {
    struct qp_string_slot *slots;
    size_t mask, count; /* slots are mask + 1, a power of two, or none */
    char *keys;         /* the strings, one after the other */
    size_t keys_size, keys_capacity;
    bool failed; /* an allocation has; what came after it is not there */
};

/* -1 when the string is not there. */
int64_t qp_strings_find(const struct qp_strings *map, const char *text, size_t size);

/* Adds a string that is not there yet. */
void qp_strings_add(struct qp_strings *map, const char *text, size_t size, int64_t value);
void qp_strings_clear(struct qp_strings *map);

#endif
