/* Scratch memory of one call. */
#ifndef QUANTPIPE_KERNELS_SCRATCH_H
#define QUANTPIPE_KERNELS_SCRATCH_H

#include <stddef.h>

/* `count` elements of `size` bytes, aligned to 64 bytes, to be given to free(). Kernels have no way to report an error,
 * so without memory this ends the process with a message; what they ask for is small beside their arguments. */
void *qp_scratch(size_t count, size_t size);

#endif
