#include "libstage/tensor/operations.h"

#include "kernels/failure.h"
#include "libstage/base/mapped.h"

int qp_operations_check(int r, struct qp_error *err)
{
    char message[512];
    int lost = qp_mapped_check(err);
    if (lost < 0)
        return lost;
    if (!qp_failure_is_set())
        return r;
    enum qp_failure kind = qp_failure_take(message, sizeof message);
    if (kind == QP_FAILURE_NONE)
        return r;
    return qp_fail(err, kind == QP_FAILURE_MEMORY ? QP_ERR_ROOM : QP_ERR_STAGE, "%s", message);
}
