/* Segments of shared memory, and which of them are kept for reuse. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

#include "libstage/stage/pool.h"

#define MIB ((size_t)1 << 20)

static struct qp_pool *pool;

static void make(void)
{
    char run[32];
    snprintf(run, sizeof run, "pool%ld", (long)getpid());
    cr_assert_eq(qp_pool_new(run, 1024 * MIB, &pool, NULL), 0);
}

static void drop(void)
{
    qp_pool_free(pool);
}

TestSuite(pool, .init = make, .fini = drop);

static struct qp_tensor *tensor(size_t bytes)
{
    struct qp_tensor *t;
    int64_t shape[] = {(int64_t)bytes};
    cr_assert_eq(qp_allocate(qp_pool_allocator(pool), "t", QP_U8, 1, shape, &t, NULL), 0);
    return t;
}

Test(pool, blocks_take_turns_with_the_same_segments)
{
    struct qp_tensor *now = tensor(40 * MIB), *next;
    for (int i = 0; i < 5; i++, now = next) {
        next = tensor(40 * MIB);
        qp_tensor_unref(now);
        cr_expect_leq(qp_pool_size(pool), 81 * MIB, "block %d: %zu bytes", i, qp_pool_size(pool));
        cr_expect_geq(qp_pool_size(pool), 80 * MIB, "block %d: the segment that is free stays", i);
    }
    qp_tensor_unref(now);
}

/* As an embedding is, before the layers. */
Test(pool, what_is_larger_than_all_that_is_in_use_goes_away)
{
    struct qp_tensor *embedding = tensor(150 * MIB), *block = tensor(40 * MIB);
    cr_expect_geq(qp_pool_size(pool), 190 * MIB);
    qp_tensor_unref(embedding);
    cr_expect_leq(qp_pool_size(pool), 41 * MIB, "%zu bytes", qp_pool_size(pool));
    qp_tensor_unref(block);
    cr_expect_leq(qp_pool_size(pool), 32 * MIB);
    cr_expect_eq(qp_pool_in_use(pool), 0);
}

/* What was kept for the next block goes back, what is in use stays. */
Test(pool, trims)
{
    struct qp_tensor *first = tensor(40 * MIB), *second = tensor(40 * MIB);
    qp_tensor_unref(first);
    cr_expect_geq(qp_pool_size(pool), 80 * MIB, "kept");
    const struct qp_allocator *allocator = qp_pool_allocator(pool);
    allocator->trim(allocator->context);
    cr_expect_leq(qp_pool_size(pool), 41 * MIB, "%zu bytes", qp_pool_size(pool));
    first = tensor(40 * MIB);
    cr_expect_geq(qp_pool_in_use(pool), 80 * MIB);
    qp_tensor_unref(first);
    qp_tensor_unref(second);
}

Test(pool, sizes_of_segments)
{
    cr_expect_eq(qp_segment_size(1), 64 << 10);
    cr_expect_eq(qp_segment_size(40000), 64 << 10);
    cr_expect_eq(qp_segment_size(1024 * 1025 * 2), 9 * (256 << 10),
                 "a triangle of 1024 channels, 64 KiB doubled twice");
    cr_expect_eq(qp_segment_size(2816 * 2817 * 2), 16 << 20, "in steps of 1 MiB");
}
