#include "tests/kernel/golden/network.h"
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

static void compare_layer_norm(int64_t rows, int64_t n, float mean, float deviation, bool biased, bool in_place)
{
    float *x = random_floats(rows * n, deviation, 1), *gain = random_floats(n, 1, 2), *bias = random_floats(n, 1, 3);
    float *want = fresh(rows * n, 4);

    for (int64_t i = 0; i < rows * n; i++)
        x[i] += mean;
    reference()->layer_norm(rows, n, x, gain, biased ? bias : NULL, 1e-5f, want);
    EACH_RUN(run)
    {
        float *in = copy_of(x, rows * n, 4), *got = in_place ? in : fresh(rows * n, 4);
        run.k->layer_norm(rows, n, in, gain, biased ? bias : NULL, 1e-5f, got);
        for (int64_t r = 0; r < rows; r++) {
            float largest = 0;
            for (int64_t i = 0; i < n; i++)
                largest = fmaxf(largest, fabsf(want[r * n + i]));
            EXPECT_NEAR(got + r * n, want + r * n, n, 1e-6 * (double)largest, "%s: row %lld of %lld columns", run.name,
                        (long long)r, (long long)n);
        }
        if (!in_place)
            free(got);
        free(in);
    }
    free(x), free(gain), free(bias), free(want);
}

/* Also where the mean takes nearly all digits. */
Test(layer_norm, agrees_with_the_reference)
{
    static const int64_t columns[] = {1, 2, 15, 16, 17, 33, 100, 576, 4099};
    static const float deviations[] = {1, 1e-12f, 1e25f, 0};

    for (int c = 0; c < COUNT(columns); c++)
        for (int d = 0; d < COUNT(deviations); d++) {
            compare_layer_norm(c % 3 == 0 ? 50 : 3, columns[c], 0, deviations[d], d % 2 == 0, c % 2 == 0);
            compare_layer_norm(3, columns[c], 1e4f, deviations[d], d % 2 == 1, false);
        }
    compare_layer_norm(0, 16, 0, 1, true, true);
}

Test(layer_norm, of_edge_values)
{
    float x[3 * 33], gain[33], want[3 * 33], got[3 * 33];

    for (int i = 0; i < 33; i++)
        gain[i] = 1;
    for (int i = 0; i < 3 * 33; i++)
        x[i] = i == 5 ? NAN : i == 40 ? INFINITY : (float)i;
    reference()->layer_norm(3, 33, x, gain, NULL, 1e-5f, want);
    cr_assert(isnan(want[0]) && isnan(want[33]) && !isnan(want[66]));
    EACH_RUN(run)
    {
        run.k->layer_norm(3, 33, x, gain, NULL, 1e-5f, got);
        EXPECT_NEAR(got, want, 3 * 33, 2e-6, "%s", run.name);
    }
}

Test(layer_norm, by_python)
{
    float y[COUNT(norm_x)];

    reference()->layer_norm(NORM_ROWS, NORM_COLS, norm_x, norm_gain, NULL, norm_eps, y);
    EXPECT_NEAR(y, norm_y, COUNT(y), 1e-6, "without a bias");
    reference()->layer_norm(NORM_ROWS, NORM_COLS, norm_x, norm_gain, norm_bias, norm_eps, y);
    EXPECT_NEAR(y, norm_y_biased, COUNT(y), 1e-6, "with a bias");
}
