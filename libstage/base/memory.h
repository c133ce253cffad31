/* Allocation of arrays with the product checked. */
#ifndef QUANTPIPE_BASE_MEMORY_H
#define QUANTPIPE_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "libstage/base/error.h"

/* An array of count elements of `size` bytes, 64-byte aligned, contents undefined, freed with free(); NULL with err
 * described (QP_ERR_SPACE) when count is negative, the product overflows or there is no memory. Never NULL for a count
 * of 0. `what` names the array in the message. */
void *qp_new_array(int64_t count, size_t size, const char *what, struct qp_error *err);

/* The same for float32. */
float *qp_new_floats(int64_t count, const char *what, struct qp_error *err);

/* `bytes` zeroed bytes, page-aligned, of which a page takes memory when it is first written to: for triangles of a
 * square. NULL as above. Freed with qp_free_sparse, which takes NULL as well. */
void *qp_new_sparse(size_t bytes, const char *what, struct qp_error *err);
void qp_free_sparse(void *array, size_t bytes);

/* realloc for a list: `old` with space for `more` elements after `used`, of which *capacity are there; doubles, so that
 * appending stays linear. NULL without memory or for sizes without bounds: `old` is as it was then. */
void *qp_grown(void *old, size_t used, size_t more, size_t element, size_t *capacity);

#endif
