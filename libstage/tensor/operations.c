#include "libstage/tensor/operations.h"

#include "kernels/failure.h"
#include "libstage/base/mapped.h"

static int describe(enum qp_failure kind, const char *message, struct qp_error *err)
{
    int code = kind == QP_FAILURE_MEMORY    ? QP_ERR_SPACE
               : kind == QP_FAILURE_STOPPED ? QP_ERR_INTERRUPTED
                                            : QP_ERR_STAGE;
    return qp_fail(err, code, "%s", message);
}

int qp_operations_check(int r, struct qp_error *err)
{
    char message[512];
    int lost = qp_mapped_check(err);
    if (lost < 0)
        return lost;
    if (!qp_failure_is_set())
        return r;
    enum qp_failure kind = qp_failure_take(message, sizeof message);
    return kind == QP_FAILURE_NONE ? r : describe(kind, message, err);
}

int qp_operations_go_on(struct qp_error *err)
{
    char message[512];
    if (!qp_failure_is_set())
        return 0;
    enum qp_failure kind = qp_failure_look(message, sizeof message);
    return kind == QP_FAILURE_NONE ? 0 : describe(kind, message, err);
}
