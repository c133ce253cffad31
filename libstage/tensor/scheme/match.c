#include "libstage/tensor/scheme/match.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

static int add_wild(struct qp_match_list *list, const char *pattern, struct qp_error *err)
{
    const char **wild = realloc(list->wild, (list->wild_count + 1) * sizeof *wild);
    if (wild)
        list->wild = wild;
    size_t *at = realloc(list->wild_at, (list->wild_count + 1) * sizeof *at);
    if (at)
        list->wild_at = at;
    if (!wild || !at)
        return qp_fail_memory(err, (list->wild_count + 1) * sizeof *at, "the scheme's patterns");
    list->wild[list->wild_count] = pattern;
    list->wild_at[list->wild_count++] = list->count;
    return 0;
}

/* Of equal ones the first counts. */
static int add_plain(struct qp_match_list *list, const char *pattern, struct qp_error *err)
{
    size_t size = strlen(pattern);
    if (qp_strings_find(&list->plain, pattern, size) < 0)
        qp_strings_add(&list->plain, pattern, size, (int64_t)list->count);
    return list->plain.failed ? qp_fail_memory(err, size, "the scheme's patterns") : 0;
}

int qp_match_add(struct qp_match_list *list, const char *pattern, struct qp_error *err)
{
    int r = strpbrk(pattern, "*?[\\") ? add_wild(list, pattern, err) : add_plain(list, pattern, err);
    list->count++;
    return r;
}

size_t qp_match_first(const struct qp_match_list *list, const char *module)
{
    int64_t plain = qp_strings_find(&list->plain, module, strlen(module));
    size_t first = plain < 0 ? QP_NO_MATCH : (size_t)plain;
    for (size_t i = 0; i < list->wild_count && list->wild_at[i] < first; i++)
        if (fnmatch(list->wild[i], module, 0) == 0)
            return list->wild_at[i];
    return first;
}

void qp_match_clear(struct qp_match_list *list)
{
    qp_strings_clear(&list->plain);
    free(list->wild);
    free(list->wild_at);
    *list = (struct qp_match_list){0};
}
