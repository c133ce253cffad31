/* The order in which GPTQ rounds columns. */
#ifndef QUANTPIPE_SOLVERS_ORDER_H
#define QUANTPIPE_SOLVERS_ORDER_H

#include <stdint.h>

#include "libstage/base/error.h"

enum qp_order {
    QP_ORDER_NATURAL,
    QP_ORDER_ACTIVATION, /* by falling diagonal of H (GPTQ's act-order, with the scales of the original groups) */
    QP_ORDER_GROUP,      /* groups by their largest diagonal, columns inside a group by theirs: groups stay whole
                            (GPTQModel's act_group_aware) */
};

/* order[i] = the column that comes i-th; of equals the first. NULL for the natural order. diagonal[n]; group: columns
 * that share a scale, at most n; the last group may be short. */
int qp_order_by_diagonal(enum qp_order kind, int64_t n, int64_t group, const float *diagonal, int64_t **order,
                         struct qp_error *err);

#endif
