#include "libstage/solvers/workspace.h"

#include <stdlib.h>

#include "libstage/base/memory.h"

int qp_workspace_open(int64_t rows, int64_t in, struct qp_workspace *out, struct qp_error *err)
{
    int64_t size;
    *out = (struct qp_workspace){.rows = rows, .in = in};
    if (__builtin_mul_overflow(rows, in, &size))
        return qp_fail(err, QP_ERR_SPACE, "a linear of %lld x %lld weights", (long long)rows, (long long)in);
    out->w = qp_new_floats(size, "a linear's weights", err);
    out->q = qp_new_floats(size, "a linear's quantized weights", err);
    out->scratch = qp_new_floats(size, "scratch", err);
    out->scale = qp_new_floats(size, "scales", err);
    out->zero = qp_new_array(size, 1, "zero points", err);
    out->codes = qp_new_array(size, 1, "codes", err);
    return out->w && out->q && out->scratch && out->scale && out->zero && out->codes ? 0 : QP_ERR_SPACE;
}

void qp_workspace_close(struct qp_workspace *workspace)
{
    free(workspace->w);
    free(workspace->q);
    free(workspace->scratch);
    free(workspace->scale);
    free(workspace->zero);
    free(workspace->codes);
}
