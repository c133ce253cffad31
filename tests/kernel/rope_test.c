#include "tests/kernel/golden/network.h"
#include "tests/kernel/harness.h"

static void compare(int64_t tokens, int64_t length, int heads, int dim, int rotary, int64_t stride, bool pairs)
{
    float *cos_table = random_floats(length * rotary / 2, 1, 1), *sin_table = random_floats(length * rotary / 2, 1, 2);
    float *x = random_floats(tokens * stride, 1, 3), *want = copy_of(x, tokens * stride, 4);
    struct qp_rope r = {tokens, length, heads, dim, rotary, stride, pairs, cos_table, sin_table, want};

    reference()->rope(&r);
    EACH_RUN(run)
    {
        float *got = copy_of(x, tokens * stride, 4);
        r.x = got;
        run.k->rope(&r);
        EXPECT_SAME_FLOATS(got, want, tokens * stride, "%s: %lld tokens, %d heads of %d, %d rotated", run.name,
                           (long long)tokens, heads, dim, rotary);
        free(got);
    }
    free(cos_table);
    free(sin_table);
    free(x);
    free(want);
}

Test(rope, every_backend_gives_the_reference_s_bits)
{
    static const int dims[] = {2, 6, 8, 30, 64, 80, 128}, rotary[] = {2, 0, 4, 30, 16, 40, 126};

    for (int d = 0; d < COUNT(dims) * 4; d++) {
        int dim = dims[d / 4], turned = d % 2 ? dim : rotary[d / 4];
        bool pairs = d % 4 > 1;
        compare(0, 5, 2, dim, turned, 2 * dim, pairs);
        compare(1, 1, 1, dim, turned, dim, pairs);
        compare(60, 20, 9, dim, turned, 9 * dim + 3, pairs);
    }
}

/* A quarter turn at position 1 takes (1, 0) to (0, 1) in each pair. */
Test(rope, a_quarter_step)
{
    const float cos_table[] = {1, 1, 0, 0}, sin_table[] = {0, 0, 1, 1};

    EACH_RUN(run)
    {
        float x[] = {1, 2, 3, 4, 1, 2, 3, 4}, y[] = {1, 2, 3, 4, 1, 2, 3, 4};
        run.k->rope(&(struct qp_rope){2, 2, 1, 4, 4, 4, false, cos_table, sin_table, x});
        EXPECT_NEAR(x, ((double[]){1, 2, 3, 4, -3, -4, 1, 2}), 8, 0, "%s", run.name);
        run.k->rope(&(struct qp_rope){2, 2, 1, 4, 4, 4, true, cos_table, sin_table, y});
        EXPECT_NEAR(y, ((double[]){1, 2, 3, 4, -2, 1, -4, 3}), 8, 0, "%s, pairs", run.name);
    }
}

Test(rope, of_a_part_of_each_head_by_python)
{
    for (int pairs = 0; pairs < 2; pairs++) {
        float x[COUNT(rope_x)];
        memcpy(x, rope_x, sizeof x);
        reference()->rope(&(struct qp_rope){ROPE_TOKENS, ROPE_TOKENS, 1, ROPE_DIM, ROPE_ROTARY, ROPE_DIM, pairs == 1,
                                            rope_cos, rope_sin, x});
        EXPECT_NEAR(x, pairs ? rope_pairs : rope_halves, COUNT(x), 1e-6, "pairs %d", pairs);
    }
}
