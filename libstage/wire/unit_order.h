/* The order in which units may come on an edge: the model unit, each of its blocks once, or in steps that follow each
 * other (attribute `step`), the end unit. A successor of a consumer may begin anywhere. */
#ifndef QUANTPIPE_WIRE_UNIT_ORDER_H
#define QUANTPIPE_WIRE_UNIT_ORDER_H

#include "libstage/tensor/unit.h"

struct qp_unit_order {
    int64_t seq;         /* of the unit that came last; -1: none has */
    int64_t blocks;      /* of the model, by the model unit's attribute `blocks`; -1: it has none, or did not come */
    int64_t block, step; /* that came last; 0: none has */
};

void qp_unit_order_start(struct qp_unit_order *order);

/* Takes the next unit, which is no duplicate. QP_ERR_STAGE says which unit is missing or came twice, or how many blocks
 * are missing when the end unit comes; also when the end unit counts other blocks than came (attribute `blocks`). */
int qp_unit_order_take(struct qp_unit_order *order, const struct qp_unit *unit, struct qp_error *err);

#endif
