#include "tests/kernel/harness.h"

static void compare(int64_t rows, int64_t n, float deviation, bool in_place)
{
    float *x = random_floats(rows * n, deviation, 1), *gain = random_floats(n, 1, 2), *want = fresh(rows * n, 4);

    reference()->rms_norm(rows, n, x, gain, 1e-5f, want);
    EACH_RUN(run)
    {
        float *in = copy_of(x, rows * n, 4), *got = in_place ? in : fresh(rows * n, 4);
        run.k->rms_norm(rows, n, in, gain, 1e-5f, got);
        for (int64_t r = 0; r < rows; r++) {
            float largest = 0;
            for (int64_t i = 0; i < n; i++)
                largest = fmaxf(largest, fabsf(want[r * n + i]));
            EXPECT_NEAR(got + r * n, want + r * n, n, 1e-6 * largest, "%s: row %lld of %lld columns", run.name,
                        (long long)r, (long long)n);
        }
        if (!in_place)
            free(got);
        free(in);
    }
    free(x);
    free(gain);
    free(want);
}

Test(rms_norm, agrees_with_the_reference)
{
    static const int64_t columns[] = {1, 2, 15, 16, 17, 33, 100, 576, 4099};
    static const float deviations[] = {1, 1e-12f, 1e25f, 0};

    for (int c = 0; c < COUNT(columns); c++)
        for (int d = 0; d < COUNT(deviations); d++)
            compare(c % 3 == 0 ? 50 : 3, columns[c], deviations[d], d % 2 == 0);
    compare(0, 16, 1, true);
}

Test(rms_norm, by_hand)
{
    const float x[] = {3, -4, 0, 5}, gain[] = {1, 2, 3, -1}; /* mean square 12.5 */
    float y[4];

    EACH_RUN(run)
    {
        run.k->rms_norm(1, 4, x, gain, 0, y);
        EXPECT_NEAR(y, ((double[]){0.848528137, -2.262741700, 0, -1.414213562}), 4, 1e-6, "%s", run.name);
    }
}
