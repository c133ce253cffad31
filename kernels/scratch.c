#include "kernels/scratch.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/failure.h"

static atomic_llong left = -1; /* allocations before one fails; below 0: none does */

void qp_scratch_fail_after(long long count)
{
    atomic_store(&left, count);
}

void *qp_scratch(size_t count, size_t size)
{
    size_t bytes;
    void *memory = NULL;
    bool allowed = atomic_load_explicit(&left, memory_order_relaxed) < 0 || atomic_fetch_sub(&left, 1) != 0;

    if (allowed && !__builtin_mul_overflow(count, size, &bytes) && !__builtin_add_overflow(bytes, 63, &bytes))
        memory = aligned_alloc(64, bytes / 64 * 64 + (bytes < 64 ? 64 : 0));
    if (memory == NULL)
        qp_failure_set(
            QP_FAILURE_MEMORY,
            "out of memory: an operation needs a workspace of %zu elements of %zu bytes; free memory, or give "
            "the run fewer threads",
            count, size);
    return memory;
}
