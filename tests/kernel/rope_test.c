#include "tests/kernel/harness.h"

static void compare(int64_t tokens, int64_t length, int heads, int dim, int64_t stride)
{
    float *cos_table = random_floats(length * dim / 2, 1, 1), *sin_table = random_floats(length * dim / 2, 1, 2);
    float *x = random_floats(tokens * stride, 1, 3), *want = copy_of(x, tokens * stride, 4);

    reference()->rope(tokens, length, heads, dim, stride, cos_table, sin_table, want);
    EACH_RUN(run)
    {
        float *got = copy_of(x, tokens * stride, 4);
        run.k->rope(tokens, length, heads, dim, stride, cos_table, sin_table, got);
        EXPECT_SAME_FLOATS(got, want, tokens * stride, "%s: %lld tokens, %d heads of %d", run.name, (long long)tokens,
                           heads, dim);
        free(got);
    }
    free(cos_table);
    free(sin_table);
    free(x);
    free(want);
}

Test(rope, every_backend_gives_the_reference_s_bits)
{
    static const int dims[] = {2, 6, 8, 30, 64, 80, 128};

    for (int d = 0; d < COUNT(dims); d++) {
        compare(0, 5, 2, dims[d], 2 * dims[d]);
        compare(1, 1, 1, dims[d], dims[d]);
        compare(60, 20, 9, dims[d], 9 * dims[d] + 3);
    }
}

/* A quarter turn at position 1 takes (1, 0) to (0, 1) in each pair (i, i + half). */
Test(rope, a_quarter_turn)
{
    const float cos_table[] = {1, 1, 0, 0}, sin_table[] = {0, 0, 1, 1};

    EACH_RUN(run)
    {
        float x[] = {1, 2, 3, 4, 1, 2, 3, 4};
        run.k->rope(2, 2, 1, 4, 4, cos_table, sin_table, x);
        EXPECT_NEAR(x, ((double[]){1, 2, 3, 4, -3, -4, 1, 2}), 8, 0, "%s", run.name);
    }
}
