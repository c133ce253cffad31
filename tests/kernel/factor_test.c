#include "tests/kernel/harness.h"

/* Symmetric positive definite: a Hessian of few samples, damped. */
static float *damped(int64_t n, float damping)
{
    float *x = random_floats(2 * n * n, 1, 4), *h = fresh(n * n, 4);

    reference()->hessian(2 * n, n, x, h);
    reference()->mirror(n, h);
    for (int64_t i = 0; i < n; i++)
        h[i * n + i] += damping * (float)n;
    free(x);
    return h;
}

/* Largest |R Rᵀ - h|, over the largest of h. */
static double residual(int64_t n, const float *r, const float *h)
{
    double worst = 0, largest = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++) {
            double sum = -(double)h[i * n + j];
            for (int64_t k = j; k < n; k++)
                sum += (double)r[i * n + k] * r[j * n + k];
            worst = fmax(worst, fabs(sum));
            largest = fmax(largest, fabs((double)h[i * n + j]));
        }
    return worst / fmax(largest, 1e-30);
}

static void compare(int64_t n)
{
    float *h = damped(n, 0.05f), *want = copy_of(h, n * n, 4), largest = 0;

    cr_assert_eq(reference()->factor(n, want), 0);
    cr_assert_leq(residual(n, want, h), 1e-6);
    for (int64_t i = 0; i < n * n; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    EACH_RUN(run)
    {
        float *got = copy_of(h, n * n, 4);
        cr_assert_eq(run.k->factor(n, got), 0);
        EXPECT_NEAR(got, want, n * n, 1e-3 * largest, "%s: order %lld", run.name, (long long)n);
        for (int64_t i = 0; i < n * n; i++)
            cr_assert(i / n <= i % n || got[i] == 0, "%s: not zero below the diagonal", run.name);
        cr_assert_leq(residual(n, got, h), 1e-5, "%s", run.name);
        free(got);
    }
    free(h);
    free(want);
}

Test(factor, agrees_with_the_reference)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 17, 64, 100, 129, 260, 700};

    for (int s = 0; s < COUNT(sizes); s++)
        compare(sizes[s]);
}

/* The largest |R Rᵀ - h| of an element, over the root of its two diagonal elements. */
static double scaled_residual(int64_t n, const float *r, const float *h)
{
    double worst = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++) {
            double sum = -(double)h[i * n + j];
            for (int64_t k = j; k < n; k++)
                sum += (double)r[i * n + k] * r[j * n + k];
            worst = fmax(worst, fabs(sum) / sqrt((double)h[i * n + i] * (double)h[j * n + j]));
        }
    return worst;
}

/* Two channels that are far larger than the others and nearly the same, as the large activations of networks are: what
 * sets them apart would be lost in products less exact than float32's, which leave 4e-7 here. */
Test(factor, is_as_exact_as_float32_where_channels_differ_in_size)
{
    const int64_t n = 700, tokens = 800, first = 20, second = 150;
    float *x = random_floats(tokens * n, 1, 5), *h = fresh(n * n, 4);

    for (int64_t t = 0; t < tokens; t++) {
        x[t * n + first] *= 300;
        x[t * n + second] += x[t * n + first];
    }
    reference()->hessian(tokens, n, x, h);
    reference()->mirror(n, h);
    for (int64_t i = 0; i < n; i++)
        h[i * n + i] += 5;
    EACH_RUN(run)
    {
        float *got = copy_of(h, n * n, 4);
        cr_assert_eq(run.k->factor(n, got), 0, "%s", run.name);
        cr_assert_leq(scaled_residual(n, got, h), 1.2e-6, "%s", run.name);
        free(got);
    }
    free(x);
    free(h);
}

/* [[4, 2], [2, 5]] = R Rᵀ for R = [[4/√5, 2/√5], [0, √5]]. */
Test(factor, by_hand)
{
    const double want[] = {1.788854382, 0.894427191, 0, 2.236067977};

    EACH_RUN(run)
    {
        float h[] = {4, 2, 2, 5};
        cr_assert_eq(run.k->factor(2, h), 0);
        EXPECT_NEAR(h, want, 4, 1e-6, "%s", run.name);
    }
}

Test(factor, names_the_minor_that_is_not_positive_definite)
{
    static const float bad[] = {-1, 0, NAN};

    for (int b = 0; b < COUNT(bad); b++)
        for (int64_t at = 0; at < 5; at++) {
            float h[25] = {0};
            for (int i = 0; i < 5; i++)
                h[6 * i] = i == at ? bad[b] : 1;
            float *copy = copy_of(h, 25, 4);
            cr_assert_eq(reference()->factor(5, copy), 5 - at);
            EACH_RUN(run)
            {
                memcpy(copy, h, sizeof h);
                cr_assert_eq(run.k->factor(5, copy), 5 - at, "%s: %g at %d", run.name, (double)bad[b], (int)at);
            }
            free(copy);
        }
}

/* A bit of the factor is a code elsewhere: the sums may not follow the number of threads. */
Test(factor, does_not_depend_on_threads)
{
    int64_t n = 900;
    float *h = damped(n, 0.05f), *want = copy_of(h, n * n, 4);
    const struct qp_kernels *k = qp_kernels_open("cpu");

    qp_kernels_set_threads(1);
    cr_assert_eq(k->factor(n, want), 0);
    for (int threads = 2; threads <= 5; threads++) {
        float *got = copy_of(h, n * n, 4);
        qp_kernels_set_threads(threads);
        cr_assert_eq(k->factor(n, got), 0);
        cr_expect(memcmp(got, want, (size_t)(n * n) * sizeof *got) == 0, "with %d threads", threads);
        free(got);
    }
    free(h);
    free(want);
}
