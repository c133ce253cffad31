#include "kernels/scratch.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "kernels/failure.h"

static atomic_llong left = -1; /* allocations before one fails; below 0: none does */

void qp_scratch_fail_after(long long count)
{
    atomic_store(&left, count);
}

/* From LARGE bytes on, memory comes in pages of HUGE bytes where the kernel gives such: a fault for each small page,
 * and a miss of the TLB for each row of a matrix, cost more than what the last page wastes. */
enum { LINE = 64, LARGE = 1 << 19, HUGE = 1 << 21 };

static void *aligned(size_t bytes)
{
    size_t unit = bytes < LARGE ? LINE : HUGE;
    size_t rounded = bytes == 0 ? unit : (bytes + unit - 1) / unit * unit;
    void *memory = aligned_alloc(unit, rounded);
    if (memory != NULL && unit == HUGE)
        madvise(memory, rounded, MADV_HUGEPAGE); /* where that is not to be had, small ones do */
    return memory;
}

void *qp_scratch(size_t count, size_t size)
{
    size_t bytes;
    void *memory = NULL;
    bool allowed = atomic_load_explicit(&left, memory_order_relaxed) < 0 || atomic_fetch_sub(&left, 1) != 0;

    if (allowed && !__builtin_mul_overflow(count, size, &bytes) && bytes <= SIZE_MAX - HUGE)
        memory = aligned(bytes);
    if (memory == NULL)
        qp_failure_set(
            QP_FAILURE_MEMORY,
            "out of memory: an operation needs a workspace of %zu elements of %zu bytes; free memory, or give "
            "the run fewer threads",
            count, size);
    return memory;
}
