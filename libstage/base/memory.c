#include "libstage/base/memory.h"

#include "libstage/base/checked.h"

#include <stdlib.h>
#include <sys/mman.h>

/* From LARGE bytes on in pages of HUGE bytes, where the kernel gives such: each page costs a fault. */
enum { LINE = 64, LARGE = 1 << 22, HUGE = 1 << 21 };

static void *aligned(size_t bytes)
{
    if (bytes < LARGE)
        return aligned_alloc(LINE, bytes / LINE * LINE + LINE);
    bytes = (bytes + HUGE - 1) / HUGE * HUGE;
    void *array = aligned_alloc(HUGE, bytes);
    if (array)
        madvise(array, bytes, MADV_HUGEPAGE); /* where it fails, small ones do */
    return array;
}

void *qp_new_array(int64_t count, size_t size, const char *what, struct qp_error *err)
{
    size_t bytes;
    if (count < 0 || __builtin_mul_overflow((size_t)count, size, &bytes) || bytes > SIZE_MAX - HUGE) {
        qp_fail_memory(err, ~0ull, what);
        return NULL;
    }
    void *array = aligned(bytes);
    if (!array)
        qp_fail_memory(err, bytes, what);
    return array;
}

float *qp_new_floats(int64_t count, const char *what, struct qp_error *err)
{
    return qp_new_array(count, sizeof(float), what, err);
}

void *qp_new_sparse(size_t bytes, const char *what, struct qp_error *err)
{
    void *array = bytes ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                        : MAP_FAILED;
    if (array == MAP_FAILED) {
        qp_fail_memory(err, bytes, what);
        return NULL;
    }
    madvise(array, bytes, MADV_NOHUGEPAGE); /* which would fill the gaps; where there are none, it fails */
    return array;
}

void qp_free_sparse(void *array, size_t bytes)
{
    if (array)
        munmap(array, bytes);
}

void *qp_grown(void *old, size_t used, size_t more, size_t element, size_t *capacity)
{
    uint64_t need = 0, bytes = 0;
    if (!qp_add_u64(used, more, &need))
        return NULL;
    if (need <= *capacity)
        return old;
    if (need < *capacity * 2)
        need = *capacity * 2;
    if (need < 64)
        need = 64;
    if (!qp_mul_u64(need, element, &bytes))
        return NULL;
    void *new = realloc(old, bytes);
    if (new)
        *capacity = need;
    return new;
}
