#include "tests/kernel/harness.h"

static void compare(int64_t count, const float *gate, const float *up, bool in_place)
{
    float *want = fresh(count, 4);

    reference()->swiglu(count, gate, up, want);
    EACH_RUN(run)
    {
        float *g = copy_of(gate, count, 4), *got = in_place ? g : fresh(count, 4);
        run.k->swiglu(count, g, up, got);
        for (int64_t i = 0; i < count; i++)
            EXPECT_NEAR(got + i, want + i, 1, 1e-6 * fabs((double)want[i]) + 1e-35 * fmax(1, fabs((double)up[i])),
                        "%s: gate %a up %a", run.name, (double)gate[i], (double)up[i]);
        if (!in_place)
            free(got);
        free(g);
    }
    free(want);
}

Test(swiglu, agrees_with_the_reference)
{
    static const int64_t counts[] = {0, 1, 7, 15, 16, 17, 1000, 40000};

    for (int c = 0; c < COUNT(counts); c++) {
        float *gate = random_floats(counts[c], 8, 1), *up = random_floats(counts[c], 1, 2);
        compare(counts[c], gate, up, c % 2 == 0);
        sprinkle(counts[c], gate, 0, 3);
        compare(counts[c], gate, up, false);
        free(gate);
        free(up);
    }
}

Test(swiglu, over_the_whole_range_of_exp)
{
    float *gate = fresh(200001, 4), *up = fresh(200001, 4);

    for (int i = 0; i <= 200000; i++) {
        gate[i] = (float)(i - 100000) / 900;
        up[i] = 1;
    }
    compare(200001, gate, up, false);
    free(gate);
    free(up);
}
