/* Counting (kernels/work.h), put around a table's functions. */
#ifndef QUANTPIPE_KERNELS_COUNTED_H
#define QUANTPIPE_KERNELS_COUNTED_H

#include "kernels/kernels.h"

/* From here on calls of the table are counted and then done as before. For one table only. */
void qp_kernels_count(struct qp_kernels *table);

/* Between two operations: takes over the number of threads that was asked for, if this thread may. */
void qp_kernels_take_threads(void);

#endif
