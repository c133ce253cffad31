/* Checked arithmetic for numbers that come from a file or a peer. Each returns false on overflow, *out then unset. */
#ifndef QUANTPIPE_BASE_CHECKED_H
#define QUANTPIPE_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool qp_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

static inline bool qp_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

/* Product of `rank` dimensions, none negative; false on overflow of int64_t or a negative dimension. 1 for rank 0. */
static inline bool qp_elements(const int64_t *shape, int rank, int64_t *out)
{
    int64_t product = 1;
    for (int i = 0; i < rank; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(product, shape[i], &product))
            return false;
    *out = product;
    return true;
}

#endif
