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

int qp_match_add(struct qp_match_list *list, const char *pattern, struct qp_error *err)
{
    int r = strpbrk(pattern, "*?[\\") ? add_wild(list, pattern, err)
                                      : qp_names_add(&list->plain, pattern, list->count, err);
    list->count++;
    return r;
}

size_t qp_match_first(const struct qp_match_list *list, const char *module)
{
    size_t first = qp_names_find(&list->plain, module);
    for (size_t i = 0; i < list->wild_count && list->wild_at[i] < first; i++)
        if (fnmatch(list->wild[i], module, 0) == 0)
            return list->wild_at[i];
    return first;
}

void qp_match_clear(struct qp_match_list *list)
{
    qp_names_clear(&list->plain);
    free(list->wild);
    free(list->wild_at);
    *list = (struct qp_match_list){0};
}
