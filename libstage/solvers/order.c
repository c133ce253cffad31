#include "libstage/solvers/order.h"

#include <stdlib.h>

#include "libstage/base/memory.h"

struct ranked {
    float group, key; /* largest diagonal of the group, and the column's own */
    int64_t first, column;
};

static int falling(float a, float b)
{
    return a == b ? 0 : a > b ? -1 : 1;
}

static int by_rank(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    int order = falling(x->group, y->group);
    if (order == 0 && x->first != y->first)
        order = x->first < y->first ? -1 : 1;
    if (order == 0)
        order = falling(x->key, y->key);
    return order != 0 ? order : x->column < y->column ? -1 : 1;
}

/* Without groups to keep whole, all columns are one group. */
static void rank(int64_t n, int64_t group, const float *diagonal, struct ranked *ranks)
{
    for (int64_t first = 0; first < n; first += group) {
        int64_t end = first + group < n ? first + group : n;
        float largest = 0.0f;
        for (int64_t i = first; i < end; i++)
            largest = diagonal[i] > largest ? diagonal[i] : largest;
        for (int64_t i = first; i < end; i++)
            ranks[i] = (struct ranked){largest, diagonal[i], first, i};
    }
}

int qp_order_by_diagonal(enum qp_order kind, int64_t n, int64_t group, const float *diagonal, int64_t **order,
                         struct qp_error *err)
{
    *order = NULL;
    if (kind == QP_ORDER_NATURAL)
        return 0;
    struct ranked *ranks = qp_new_array(n, sizeof *ranks, "the order of columns", err);
    int64_t *columns = qp_new_array(n, sizeof *columns, "the order of columns", err);
    if (!ranks || !columns) {
        free(ranks);
        free(columns);
        return QP_ERR_SPACE;
    }
    rank(n, kind == QP_ORDER_GROUP && group > 0 ? group : n, diagonal, ranks);
    qsort(ranks, (size_t)n, sizeof *ranks, by_rank);
    for (int64_t i = 0; i < n; i++)
        columns[i] = ranks[i].column;
    free(ranks);
    *order = columns;
    return 0;
}
