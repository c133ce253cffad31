#include "libstage/include/stage.h"

int qp_stage_pass(struct qp_stage *stage, struct qp_unit *unit, int r, struct qp_error *err)
{
    if (r == 0)
        return qp_stage_emit(stage, NULL, unit, err);
    qp_unit_free(unit);
    return r;
}
