#include "kernels/scratch.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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

static bool is_allowed(void)
{
    return atomic_load_explicit(&left, memory_order_relaxed) < 0 || atomic_fetch_sub(&left, 1) != 0;
}

static void *allocate(bool allowed, size_t count, size_t size)
{
    size_t bytes;
    void *memory = NULL;

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

void *qp_scratch(size_t count, size_t size)
{
    return allocate(is_allowed(), count, size);
}

/* ---- workspaces that are kept ---- */

/* Before each of them: how many bytes it has. */
enum { HEADER = 64, KEPT = 8 };

static void *kept[KEPT];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static size_t size_of(const void *block)
{
    size_t bytes = 0;
    if (block != NULL)
        memcpy(&bytes, block, sizeof bytes);
    return bytes;
}

/* The smallest one of at least so many bytes, or NULL. */
static void *take_kept(size_t bytes)
{
    int best = -1;

    pthread_mutex_lock(&lock);
    for (int i = 0; i < KEPT; i++)
        if (kept[i] != NULL && size_of(kept[i]) >= bytes && (best < 0 || size_of(kept[i]) < size_of(kept[best])))
            best = i;
    void *block = best < 0 ? NULL : kept[best];
    if (best >= 0)
        kept[best] = NULL;
    pthread_mutex_unlock(&lock);
    return block;
}

void *qp_scratch_borrow(size_t count, size_t size)
{
    bool allowed = is_allowed();
    size_t bytes;

    if (__builtin_mul_overflow(count, size, &bytes) || __builtin_add_overflow(bytes, HEADER, &bytes))
        bytes = SIZE_MAX; /* which no allocation gives */
    void *block = allowed ? take_kept(bytes) : NULL;
    if (block == NULL && (block = allocate(allowed, bytes, 1)) != NULL)
        memcpy(block, &bytes, sizeof bytes);
    return block == NULL ? NULL : (char *)block + HEADER;
}

/* In place of the smallest one where there is no place left. */
void qp_scratch_return(void *memory)
{
    void *block = memory == NULL ? NULL : (char *)memory - HEADER;
    int least = 0;

    if (block == NULL)
        return;
    pthread_mutex_lock(&lock);
    for (int i = 1; i < KEPT; i++)
        if (size_of(kept[i]) < size_of(kept[least]))
            least = i;
    void *out = kept[least];
    kept[least] = block;
    pthread_mutex_unlock(&lock);
    free(out);
}

void qp_scratch_empty(void)
{
    pthread_mutex_lock(&lock);
    for (int i = 0; i < KEPT; i++) {
        free(kept[i]);
        kept[i] = NULL;
    }
    pthread_mutex_unlock(&lock);
}
