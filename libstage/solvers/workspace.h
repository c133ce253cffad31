/* Memory to round a linear in: its weights, codes and scales, and what is compared with them. */
#ifndef QUANTPIPE_SOLVERS_WORKSPACE_H
#define QUANTPIPE_SOLVERS_WORKSPACE_H

#include <stdint.h>

#include "libstage/base/error.h"

/* For linears [rows, in] with at most rows * in numbers. What is never written takes no memory. */
struct qp_workspace {
    int64_t rows, in;
    float *w, *q, *scratch; /* [rows, in]: weights, quantized weights, anything */
    float *scale;           /* [rows, in]: as many scales as there can be */
    int8_t *zero;
    uint8_t *codes;
};

/* QP_ERR_SPACE, or for sizes without bounds. Closed by the caller, also when it fails. */
int qp_workspace_open(int64_t rows, int64_t in, struct qp_workspace *out, struct qp_error *err);
void qp_workspace_close(struct qp_workspace *workspace);

#endif
