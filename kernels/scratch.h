/* Workspace of one call. */
#ifndef QUANTPIPE_KERNELS_SCRATCH_H
#define QUANTPIPE_KERNELS_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>

/* `count` elements of `size` bytes, aligned to 64 bytes, to be given to free(). NULL without memory, which is then the
 * failure of the operation (kernels/failure.h): it returns without finishing. */
void *qp_scratch(size_t count, size_t size);

/* The same for workspaces that the next operations need again: what is returned is kept, a few at a time, until
 * qp_scratch_empty, for fresh pages take longer than much of the work done in them. Thread-safe. */
void *qp_scratch_borrow(size_t count, size_t size);
void qp_scratch_return(void *memory); /* what was borrowed, or NULL */

/* Frees what is kept: at the end of a unit. */
void qp_scratch_empty(void);

/* For tests: the next `count` allocations are made, the one after them fails, and those after that are made again;
 * below 0, none fails. */
void qp_scratch_fail_after(long long count);

#endif
