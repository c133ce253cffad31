#include "tests/kernel/harness.h"

struct stats {
    float *absmax, *min, *max;
    double *abssum;
};

static struct stats start(int64_t n)
{
    struct stats s = {fresh(n, 4), fresh(n, 4), fresh(n, 4), fresh(n, 8)};
    for (int64_t i = 0; i < n; i++) {
        s.min[i] = INFINITY;
        s.max[i] = -INFINITY;
    }
    return s;
}

static void release(struct stats *s)
{
    free(s->absmax);
    free(s->min);
    free(s->max);
    free(s->abssum);
}

static void compare(int64_t rows, int64_t n, bool edges)
{
    float *x = random_floats(rows * n, 3, 5);
    struct stats want = start(n);
    if (edges)
        sprinkle(rows * n, x, 0, 7);
    for (int twice = 0; twice < 2; twice++)
        reference()->column_stats(rows, n, x, want.absmax, want.abssum, want.min, want.max);
    EACH_RUN(run)
    {
        struct stats got = start(n);
        for (int twice = 0; twice < 2; twice++) {
            run.k->column_stats(rows, n, x, got.absmax, NULL, NULL, got.max);
            run.k->column_stats(rows, n, x, NULL, got.abssum, got.min, NULL);
        }
        EXPECT_SAME_FLOATS(got.absmax, want.absmax, n, "%s: absmax", run.name);
        EXPECT_SAME_FLOATS(got.min, want.min, n, "%s: min", run.name);
        EXPECT_SAME_FLOATS(got.max, want.max, n, "%s: max", run.name);
        EXPECT_NEAR(got.abssum, want.abssum, n, 0, "%s: abssum", run.name);
        release(&got);
    }
    release(&want);
    free(x);
}

Test(column_stats, every_backend_gives_the_reference_s_bits)
{
    static const int64_t rows[] = {0, 1, 3, 200}, columns[] = {0, 1, 15, 16, 17, 128, 129, 576};

    for (int r = 0; r < COUNT(rows); r++)
        for (int c = 0; c < COUNT(columns); c++)
            for (int edges = 0; edges < 2; edges++)
                compare(rows[r], columns[c], edges);
}

Test(column_stats, ignores_nan)
{
    const float x[] = {NAN, 1, -3, NAN, NAN, NAN, 2, -5, NAN};
    float absmax[3] = {0}, min[3] = {INFINITY, INFINITY, INFINITY}, max[3] = {-INFINITY, -INFINITY, -INFINITY};
    double abssum[3] = {0};

    reference()->column_stats(3, 3, x, absmax, abssum, min, max);
    EXPECT_SAME_FLOATS(absmax, ((float[]){2, 5, 3}), 3, "absmax");
    EXPECT_SAME_FLOATS(min, ((float[]){2, -5, -3}), 3, "min");
    EXPECT_SAME_FLOATS(max, ((float[]){2, 1, -3}), 3, "max");
    EXPECT_NEAR(abssum, ((double[]){2, 6, 3}), 3, 0, "abssum");
}
