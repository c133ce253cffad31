#include "tests/kernel/golden/network.h"
#include "tests/kernel/harness.h"

static const int64_t counts[] = {0, 1, 7, 15, 16, 17, 1000, 40001};

Test(multiply, every_backend_gives_the_reference_s_bits)
{
    for (int c = 0; c < COUNT(counts); c++) {
        int64_t n = counts[c];
        float *x = random_floats(n, 8, 1), *want, *got;
        sprinkle(n, x, c, 3);
        want = copy_of(x, n, 4);
        reference()->multiply(n, 0.3f, want);
        for (int64_t i = 0; i < n; i++)
            cr_assert(same_float(want[i], (float)((double)x[i] * (double)0.3f)), "%a", (double)x[i]);
        EACH_RUN(run)
        {
            got = copy_of(x, n, 4);
            run.k->multiply(n, 0.3f, got);
            EXPECT_SAME_FLOATS(got, want, n, "%s", run.name);
            free(got);
        }
        free(x);
        free(want);
    }
}

Test(add_scaled, every_backend_gives_the_reference_s_bits)
{
    for (int c = 0; c < COUNT(counts); c++) {
        int64_t n = counts[c];
        float *x = random_floats(n, 8, 1), *y = random_floats(n, 2, 2), *want, *got;
        sprinkle(n, x, c, 3);
        sprinkle(n, y, c + 5, 7);
        want = copy_of(y, n, 4);
        reference()->add_scaled(n, -1.7f, x, want);
        EACH_RUN(run)
        {
            got = copy_of(y, n, 4);
            run.k->add_scaled(n, -1.7f, x, got);
            EXPECT_SAME_FLOATS(got, want, n, "%s", run.name);
            free(got);
        }
        free(x);
        free(y);
        free(want);
    }
}

/* (1 + 2^-12)^2 is 1 + 2^-11 once rounded; a fused multiply-add would leave its 2^-24. */
Test(add_scaled, rounds_the_product_before_the_sum)
{
    for (int r = -1; r < 0 || nth_run(r).k != NULL; r++) {
        const struct qp_kernels *k = r < 0 ? reference() : nth_run(r).k;
        float x[40], y[40];
        for (int i = 0; i < 40; i++) {
            x[i] = 1 + 0x1p-12f;
            y[i] = -1 - 0x1p-11f;
        }
        k->add_scaled(40, 1 + 0x1p-12f, x, y);
        for (int i = 0; i < 40; i++)
            cr_assert(y[i] == 0, "%s: %a", k->backend, (double)y[i]);
    }
}

static void compare_cap(int64_t n, float cap, const float *x)
{
    float *want = copy_of(x, n, 4);

    reference()->soft_cap(n, cap, want);
    EACH_RUN(run)
    {
        float *got = copy_of(x, n, 4);
        run.k->soft_cap(n, cap, got);
        for (int64_t i = 0; i < n; i++)
            EXPECT_NEAR(got + i, want + i, 1, 1e-6 * fabs((double)want[i]) + 1e-35 * fmax(1, (double)cap),
                        "%s: %a under %g", run.name, (double)x[i], (double)cap);
        free(got);
    }
    free(want);
}

Test(soft_cap, agrees_with_the_reference)
{
    static const float caps[] = {0.01f, 1, 30, 50, 1e6f};

    for (int c = 0; c < COUNT(counts) * COUNT(caps); c++) {
        int64_t n = counts[c / COUNT(caps)];
        float cap = caps[c % COUNT(caps)], *x = random_floats(n, cap, 1);
        compare_cap(n, cap, x);
        sprinkle(n, x, c, 3);
        compare_cap(n, cap, x);
        free(x);
    }
}

Test(soft_cap, over_the_whole_range_of_tanh)
{
    float *x = fresh(200001, 4);

    for (int i = 0; i <= 200000; i++)
        x[i] = (float)(i - 100000) / 8000;
    compare_cap(200001, 1, x);
    free(x);
}

Test(soft_cap, by_python)
{
    float x[COUNT(cap_x)];

    memcpy(x, cap_x, sizeof x);
    reference()->soft_cap(COUNT(x), cap_of, x);
    for (int i = 0; i < COUNT(x); i++)
        EXPECT_NEAR(x + i, cap_y + i, 1, 2e-7 * fabs((double)cap_y[i]), "the reference, %g", (double)cap_x[i]);
}
