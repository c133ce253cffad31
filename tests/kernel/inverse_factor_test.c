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

/* Largest |U h Uᵀ - 1|: U h Uᵀ is the identity when UᵀU is the inverse of h. */
static double residual(int64_t n, const float *u, const float *h)
{
    double *uh = fresh(n * n, sizeof *uh), worst = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t k = i; k < n; k++)
            for (int64_t j = 0; j < n; j++)
                uh[i * n + j] += (double)u[i * n + k] * h[k * n + j];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = i == j ? -1 : 0;
            for (int64_t k = j; k < n; k++)
                sum += uh[i * n + k] * u[j * n + k];
            worst = fmax(worst, fabs(sum));
        }
    free(uh);
    return worst;
}

static void compare(int64_t n)
{
    float *h = damped(n, 0.05f), *want = copy_of(h, n * n, 4), largest = 0;

    cr_assert_eq(reference()->inverse_factor(n, want), 0);
    cr_assert_lt(residual(n, want, h), 1e-3);
    for (int64_t i = 0; i < n * n; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    EACH_RUN(run)
    {
        float *got = copy_of(h, n * n, 4);
        cr_assert_eq(run.k->inverse_factor(n, got), 0);
        EXPECT_NEAR(got, want, n * n, 1e-3 * largest, "%s: order %lld", run.name, (long long)n);
        for (int64_t i = 0; i < n * n; i++)
            cr_assert(i / n <= i % n || got[i] == 0, "%s: not zero below the diagonal", run.name);
        cr_assert_lt(residual(n, got, h), 1e-2);
        free(got);
    }
    free(h);
    free(want);
}

Test(inverse_factor, agrees_with_the_reference)
{
    static const int64_t sizes[] = {0, 1, 2, 3, 17, 64, 100, 129, 260, 700};

    for (int s = 0; s < COUNT(sizes); s++)
        compare(sizes[s]);
}

/* h = [[4, 2], [2, 5]] has the inverse [[5, -2], [-2, 4]] / 16, whose factor is [[√5, -2/√5], [0, 4/√5]] / 4. */
Test(inverse_factor, by_hand)
{
    const double want[] = {0.559016994, -0.223606798, 0, 0.447213595};

    EACH_RUN(run)
    {
        float h[] = {4, 2, 2, 5};
        cr_assert_eq(run.k->inverse_factor(2, h), 0);
        EXPECT_NEAR(h, want, 4, 1e-6, "%s", run.name);
    }
}

Test(inverse_factor, names_the_minor_that_is_not_positive_definite)
{
    static const float bad[] = {-1, 0, NAN};

    for (int b = 0; b < COUNT(bad); b++)
        for (int64_t at = 0; at < 5; at++) {
            float h[25] = {0};
            for (int i = 0; i < 5; i++)
                h[6 * i] = i == at ? bad[b] : 1;
            float *copy = copy_of(h, 25, 4);
            cr_assert_eq(reference()->inverse_factor(5, copy), 5 - at);
            EACH_RUN(run)
            {
                memcpy(copy, h, sizeof h);
                cr_assert_eq(run.k->inverse_factor(5, copy), 5 - at, "%s: %g at %d", run.name, (double)bad[b], (int)at);
            }
            free(copy);
        }
}

/* A bit of the factor is a code elsewhere: the sums may not follow the number of threads. */
Test(inverse_factor, does_not_depend_on_threads)
{
    int64_t n = 900;
    float *h = damped(n, 0.05f), *want = copy_of(h, n * n, 4);
    const struct qp_kernels *k = qp_kernels_open("cpu");

    qp_kernels_set_threads(1);
    cr_assert_eq(k->inverse_factor(n, want), 0);
    for (int threads = 2; threads <= 5; threads++) {
        float *got = copy_of(h, n * n, 4);
        qp_kernels_set_threads(threads);
        cr_assert_eq(k->inverse_factor(n, got), 0);
        cr_expect(memcmp(got, want, (size_t)(n * n) * sizeof *got) == 0, "with %d threads", threads);
        free(got);
    }
    free(h);
    free(want);
}
