/* Shared memory that consumers on this host can read without a copy. Segments are used again when their last reference
 * is gone: fresh pages cost many times what a copy into warm ones does. Thread-safe. */
#ifndef QUANTPIPE_STAGE_POOL_H
#define QUANTPIPE_STAGE_POOL_H

#include <stdbool.h>

#include "libstage/tensor/tensor.h"

struct qp_pool;

/* Segments are named /qp-RUN-PID-N. At most `keep` bytes of them are kept for reuse, and no more than
 * are in use (or 32 MiB). */
int qp_pool_new(const char *run, size_t keep, struct qp_pool **out, struct qp_error *err);

/* Unlinks all segments; no tensor of the pool may be left. NULL is accepted. */
void qp_pool_free(struct qp_pool *pool);

/* Unlinks the names of all segments, also of those in use: for a process that ends at once. */
void qp_pool_unlink(struct qp_pool *pool);

/* Small tensors, all tensors while the pool is off, and those that /dev/shm has no space for, go to the heap. Its trim
 * unlinks the segments that are kept for reuse. */
const struct qp_allocator *qp_pool_allocator(struct qp_pool *pool);

/* Off: nobody on this host would read it. On at first. */
void qp_pool_switch(struct qp_pool *pool, bool on);

size_t qp_pool_in_use(const struct qp_pool *pool); /* bytes of segments that are referenced */
size_t qp_pool_size(const struct qp_pool *pool);   /* bytes of all segments */
size_t qp_pool_given(const struct qp_pool *pool);  /* bytes of all tensors that were ever allocated, heap or not */

#endif
