#include "tests/kernel/golden/low_rank.h"
#include "tests/kernel/harness.h"

struct problem {
    int64_t rows, cols, rank;
    float *e, *h; /* h NULL: the identity */
};

struct factors {
    float *b, *a;
};

static struct factors fit(const struct qp_kernels *k, const struct problem *p)
{
    struct factors f = {fresh(p->rows * p->rank, 4), fresh(p->rank * p->cols, 4)};
    cr_assert_eq(k->low_rank(p->rows, p->cols, p->rank, p->e, p->h, f.b, f.a), 0, "%s", k->backend);
    return f;
}

static void drop(struct factors f)
{
    free(f.b);
    free(f.a);
}

/* tr(d H dᵀ) for d = e - b a, or e alone. */
static double loss(const struct problem *p, const struct factors *f)
{
    double *d = fresh(p->cols, sizeof *d), sum = 0;
    for (int64_t r = 0; r < p->rows; r++) {
        for (int64_t j = 0; j < p->cols; j++) {
            d[j] = p->e[r * p->cols + j];
            for (int64_t k = 0; f && k < p->rank; k++)
                d[j] -= (double)f->b[r * p->rank + k] * f->a[k * p->cols + j];
        }
        for (int64_t i = 0; i < p->cols; i++)
            for (int64_t j = 0; j < p->cols; j++)
                sum += p->h ? d[i] * d[j] * p->h[i * p->cols + j] : i == j ? d[i] * d[i] : 0.0;
    }
    free(d);
    return sum;
}

static void orthonormal(const struct problem *p, const float *b, const char *who)
{
    for (int64_t k = 0; k < p->rank; k++)
        for (int64_t l = 0; l <= k; l++) {
            double sum = 0;
            for (int64_t r = 0; r < p->rows; r++)
                sum += (double)b[r * p->rank + k] * b[r * p->rank + l];
            cr_assert_float_eq(sum, k == l, 1e-5, "%s: columns %lld and %lld: %g", who, (long long)k, (long long)l,
                               sum);
        }
}

/* A Hessian of `tokens` inputs; singular when they are fewer than the columns. */
static float *hessian(int64_t tokens, int64_t n)
{
    float *x = random_floats(tokens * n, 1, 7), *h = fresh(n * n, 4);
    for (int64_t i = 0; i < tokens * n; i++)
        x[i] *= i % n == n / 2 ? 30.0f : 1.0f; /* a channel of outliers */
    reference()->hessian(tokens, n, x, h);
    reference()->mirror(n, h);
    free(x);
    return h;
}

static void compare(int64_t rows, int64_t cols, int64_t rank, int64_t tokens)
{
    struct problem p = {rows, cols, rank, random_floats(rows * cols, 1, 5), tokens ? hessian(tokens, cols) : NULL};
    struct factors want = fit(reference(), &p);
    double whole = loss(&p, NULL), best = loss(&p, &want);
    orthonormal(&p, want.b, "ref");
    cr_assert_lt(best, whole);
    EACH_RUN(run)
    {
        struct factors got = fit(run.k, &p);
        double found = loss(&p, &got);
        orthonormal(&p, got.b, run.name);
        cr_assert_float_eq(found, best, 1e-4 * whole, "%s, %lld x %lld: %g, expected %g", run.name, (long long)rows,
                           (long long)cols, found, best);
        drop(got);
    }
    drop(want);
    free(p.e);
    free(p.h);
}

Test(low_rank, agrees_with_the_reference)
{
    compare(1, 1, 1, 0);
    compare(8, 20, 3, 0);
    compare(20, 8, 3, 0);
    compare(24, 24, 5, 100);
    compare(12, 40, 4, 200);
    compare(40, 12, 4, 200);
    compare(50, 33, 8, 12); /* fewer tokens than columns */
    compare(33, 50, 8, 12);
}

static void compare_golden(struct problem p, const float *ba, double best)
{
    EACH_RUN(run)
    {
        struct factors got = fit(run.k, &p);
        cr_expect_float_eq(loss(&p, &got), best, 1e-4 * best, "%s: %g, expected %g", run.name, loss(&p, &got), best);
        for (int64_t i = 0; i < p.rows * p.cols; i++) {
            double product = 0;
            for (int64_t k = 0; k < p.rank; k++)
                product += (double)got.b[i / p.cols * p.rank + k] * got.a[k * p.cols + i % p.cols];
            cr_assert_float_eq(product, ba[i], 1e-4, "%s: element %lld", run.name, (long long)i);
        }
        drop(got);
    }
}

Test(low_rank, is_the_optimum_of_numpy)
{
    struct problem wide = {GOLDEN_ROWS_0, GOLDEN_COLS_0, GOLDEN_RANK, (float *)golden_e_0, (float *)golden_h_0};
    struct problem tall = {GOLDEN_ROWS_1, GOLDEN_COLS_1, GOLDEN_RANK, (float *)golden_e_1, (float *)golden_h_1};
    compare_golden(wide, golden_ba_0, golden_loss_0[0]);
    compare_golden(tall, golden_ba_1, golden_loss_1[0]);
}

/* e of rank 2 is met exactly, and the rest of a larger rank is 0. */
static void planted(int64_t rows, int64_t cols)
{
    enum { RANK = 2, ASKED = 4 };
    float *b = random_floats(rows * RANK, 1, 1), *a = random_floats(RANK * cols, 1, 2);
    struct problem p = {rows, cols, ASKED, fresh(rows * cols, 4), hessian(3 * cols, cols)};
    for (int64_t i = 0; i < rows * cols; i++)
        for (int64_t k = 0; k < RANK; k++)
            p.e[i] += b[i / cols * RANK + k] * a[k * cols + i % cols];
    EACH_RUN(run)
    {
        struct factors got = fit(run.k, &p);
        cr_assert_lt(loss(&p, &got), 1e-9 * loss(&p, NULL), "%s", run.name);
        drop(got);
    }
    memset(p.e, 0, (size_t)(rows * cols) * sizeof *p.e);
    EACH_RUN(run)
    {
        struct factors got = fit(run.k, &p);
        for (int64_t i = 0; i < rows * ASKED; i++)
            cr_assert_eq(got.b[i], 0.0f, "%s: a correction of nothing", run.name);
        drop(got);
    }
    free(a);
    free(b);
    free(p.e);
    free(p.h);
}

Test(low_rank, finds_what_was_planted)
{
    planted(16, 24);
    planted(24, 16);
}

Test(low_rank, refuses_what_is_not_finite)
{
    EACH_RUN(run)
    {
        float e[] = {1, NAN, 2, 3, 4, 5}, b[3], a[3];
        cr_expect_eq(run.k->low_rank(2, 3, 1, e, NULL, b, a), -1, "%s", run.name);
        cr_expect_eq(run.k->low_rank(3, 2, 1, e, NULL, b, a), -1, "%s", run.name);
    }
    EACH_RUN(run)
    {
        float e[] = {1, 0, 2, 3, 4, 5}, h[] = {NAN, 0, 0, 1}, b[3], a[3];
        cr_expect_eq(run.k->low_rank(3, 2, 1, e, h, b, a), -1, "%s", run.name);
    }
    float e[] = {1, INFINITY}, b[1], a[2];
    cr_expect_eq(reference()->low_rank(1, 2, 1, e, NULL, b, a), -1);
}
