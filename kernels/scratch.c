#include "kernels/scratch.h"

#include <stdio.h>
#include <stdlib.h>

void *qp_scratch(size_t count, size_t size)
{
    size_t bytes;
    void *memory = NULL;

    if (!__builtin_mul_overflow(count, size, &bytes) && !__builtin_add_overflow(bytes, 63, &bytes))
        memory = aligned_alloc(64, bytes / 64 * 64 + (bytes < 64 ? 64 : 0));
    if (memory == NULL) {
        fprintf(stderr, "quantpipe: out of memory: a kernel needs %zu elements of %zu bytes of scratch\n", count, size);
        abort();
    }
    return memory;
}
