/* What went wrong where no error could be returned, in operations of the kernels and in reads of mapped files. */
#ifndef QUANTPIPE_TENSOR_OPERATIONS_H
#define QUANTPIPE_TENSOR_OPERATIONS_H

#include "libstage/base/error.h"

/* 0 when all operations of this process went well since the last call; else the first failure (kernels/failure.h),
 * which is forgotten then: QP_ERR_SPACE for memory, QP_ERR_STAGE for a library that cannot be used; or QP_ERR_INPUT for
 * a mapped file that has lost its end (libstage/base/mapped.h), or QP_ERR_INTERRUPTED for a process that is asked to
 * end. To be asked before results of operations leave the process. `r`: an error that is described in `err` already, or
 * 0; a failure replaces it, for it is the cause. Returns r without one. */
int qp_operations_check(int r, struct qp_error *err);

/* For long loops: 0 while there is a reason to go on; else the failure, or QP_ERR_INTERRUPTED when the process is asked
 * to end. Forgets nothing. */
int qp_operations_go_on(struct qp_error *err);

#endif
