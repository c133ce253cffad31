/* A map from names to numbers: where in a list each name is. */
#ifndef QUANTPIPE_BASE_NAMES_H
#define QUANTPIPE_BASE_NAMES_H

#include <stddef.h>

#include "libstage/base/error.h"

#define QP_NO_NAME ((size_t)-1)

struct qp_name {
    const char *text; /* NULL: a free slot */
    size_t value;
};

/* A hash table with linear probing, at most half full. {0} is an empty one. */
struct qp_names {
    struct qp_name *slots;
    size_t count, capacity; /* a power of two, or 0 */
};

/* The value of a name, or QP_NO_NAME. */
size_t qp_names_find(const struct qp_names *names, const char *text);

/* Gives a name its value: add only if it has none yet, set in any case, and its text is this one then. The text has to
 * outlive the map. QP_ERR_SPACE. */
int qp_names_set(struct qp_names *names, const char *text, size_t value, struct qp_error *err);
int qp_names_add(struct qp_names *names, const char *text, size_t value, struct qp_error *err);

/* Empties the map, and frees its memory. */
void qp_names_clear(struct qp_names *names);

#endif
