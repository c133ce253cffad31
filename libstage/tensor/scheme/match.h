/* Which pattern of an ordered list a module's name matches first. Most patterns of long lists (those of a budget, one a
 * linear) are plain names: these are found by hash, so that a lookup tries the patterns with wildcards alone. */
#ifndef QUANTPIPE_TENSOR_SCHEME_MATCH_H
#define QUANTPIPE_TENSOR_SCHEME_MATCH_H

#include "libstage/base/error.h"
#include "libstage/base/strings.h"

#define QP_NO_MATCH ((size_t)-1)

struct qp_match_list {
    struct qp_strings plain; /* patterns without wildcards, and where they stand */
    const char **wild;       /* [wild_count]: fnmatch patterns, in order */
    size_t *wild_at;         /* where they stand */
    size_t wild_count, count;
};

/* Appends a pattern; it has to outlive the list. QP_ERR_SPACE. */
int qp_match_add(struct qp_match_list *list, const char *pattern, struct qp_error *err);

/* Where the first pattern that matches stands, or QP_NO_MATCH. */
size_t qp_match_first(const struct qp_match_list *list, const char *module);

void qp_match_clear(struct qp_match_list *list);

#endif
