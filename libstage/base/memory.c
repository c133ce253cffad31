#include "libstage/base/memory.h"

#include <stdlib.h>

void *qp_new_array(int64_t count, size_t size, const char *what, struct qp_error *err)
{
    size_t bytes;
    if (count < 0 || __builtin_mul_overflow((size_t)count, size, &bytes) || bytes > SIZE_MAX - 64) {
        qp_fail_memory(err, ~0ull, what);
        return NULL;
    }
    void *array = aligned_alloc(64, bytes / 64 * 64 + 64);
    if (!array)
        qp_fail_memory(err, bytes, what);
    return array;
}

float *qp_new_floats(int64_t count, const char *what, struct qp_error *err)
{
    return qp_new_array(count, sizeof(float), what, err);
}
