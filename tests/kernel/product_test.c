#include "kernels/codec.h"
#include "tests/kernel/harness.h"

/* Bound of a float32 sum of k products, each of size 1, in any order. */
static double sum_bound(int64_t k)
{
    return 4e-7 * sqrt((double)k + 1) * (4 + sqrt((double)k));
}

/* The product's matrices and the elements between their rows are made here. */
static void compare(struct qp_gemm g, int64_t gap)
{
    bool ta = g.ta, tb = g.tb;
    int64_t m = g.m, n = g.n, k = g.k;
    float alpha = g.alpha, beta = g.beta;
    int64_t lda = (ta ? m : k) + gap, ldb = (tb ? k : n) + 2 * gap, ldc = n + 3 * gap;
    float *a = random_floats((ta ? k : m) * lda, 1, 1), *b = random_floats((tb ? n : k) * ldb, 1, 2);
    float *c = random_floats(m * ldc, 1, 3), *want;

    for (int64_t i = 0; beta == 0 && i < m * ldc; i++)
        c[i] = i % ldc < n ? NAN : c[i]; /* must not be read */
    want = copy_of(c, m * ldc, 4);
    reference()->gemm(&(struct qp_gemm){ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, want, ldc});
    EACH_RUN(run)
    {
        float *got = copy_of(c, m * ldc, 4);
        run.k->gemm(&(struct qp_gemm){ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, got, ldc});
        EXPECT_NEAR(got, want, m * ldc, sum_bound(k), "%s: %d%d %lld x %lld x %lld", run.name, ta, tb, (long long)m,
                    (long long)n, (long long)k);
        free(got);
    }
    free(a);
    free(b);
    free(c);
    free(want);
}

Test(gemm, agrees_with_the_reference)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 33, 17},    {17, 1, 5}, {7, 9, 0}, {64, 64, 64},
                                       {48, 96, 31}, {130, 67, 129}, {0, 5, 3},  {5, 0, 3}, {600, 33, 40}};

    for (int s = 0; s < COUNT(sizes); s++)
        for (int t = 0; t < 4; t++) {
            compare((struct qp_gemm){.ta = t & 1,
                                     .tb = t & 2,
                                     .m = sizes[s][0],
                                     .n = sizes[s][1],
                                     .k = sizes[s][2],
                                     .alpha = 1,
                                     .beta = 0},
                    0);
            compare((struct qp_gemm){.ta = t & 1,
                                     .tb = t & 2,
                                     .m = sizes[s][0],
                                     .n = sizes[s][1],
                                     .k = sizes[s][2],
                                     .alpha = -0.5f,
                                     .beta = 1},
                    3);
            compare((struct qp_gemm){.ta = t & 1,
                                     .tb = t & 2,
                                     .m = sizes[s][0],
                                     .n = sizes[s][1],
                                     .k = sizes[s][2],
                                     .alpha = 2,
                                     .beta = 0.25f},
                    1);
        }
}

Test(gemm, is_the_same_for_any_number_of_threads)
{
    float *x = random_floats(700 * 900, 1, 1), *w = random_floats(500 * 900, 1, 2);
    float *first = fresh(700 * 500, 4), *y = fresh(700 * 500, 4);
    const struct qp_kernels *k = qp_kernels_open("cpu");

    qp_kernels_set_threads(1);
    k->gemm(&(struct qp_gemm){false, true, 700, 500, 900, 1, x, 900, w, 900, 0, first, 500});
    for (int threads = 2; threads < 6; threads++) {
        qp_kernels_set_threads(threads);
        k->gemm(&(struct qp_gemm){false, true, 700, 500, 900, 1, x, 900, w, 900, 0, y, 500});
        EXPECT_SAME_FLOATS(y, first, 700 * 500, "%d threads", threads);
    }
    free(x);
    free(w);
    free(first);
    free(y);
}

static void hessian(int64_t rows, int64_t n)
{
    float *x = random_floats(rows * n, 1, 1), *h = random_floats(n * n, 1, 2), *want = copy_of(h, n * n, 4);

    reference()->hessian(rows, n, x, want);
    reference()->mirror(n, want);
    EACH_RUN(run)
    {
        float *got = copy_of(h, n * n, 4);
        run.k->hessian(rows, n, x, got);
        run.k->mirror(n, got);
        EXPECT_NEAR(got, want, n * n, sum_bound(rows), "%s: %lld rows, %lld columns", run.name, (long long)rows,
                    (long long)n);
        free(got);
    }
    free(x);
    free(h);
    free(want);
}

Test(hessian, agrees_with_the_reference)
{
    static const int64_t columns[] = {1, 7, 64, 127, 128, 129, 300}, rows[] = {0, 1, 5, 70};

    for (int c = 0; c < COUNT(columns); c++)
        for (int r = 0; r < COUNT(rows); r++)
            hessian(rows[r], columns[c]);
    hessian(40, 1100);
}

Test(hessian, is_the_same_for_any_number_of_threads)
{
    const int64_t rows = 700, n = 500;
    float *x = random_floats(rows * n, 1, 1), *first = fresh(n * n, 4);
    const struct qp_kernels *k = qp_kernels_open("cpu");

    for (int threads = 1; threads < 6; threads++) {
        float *h = threads == 1 ? first : fresh(n * n, 4);
        qp_kernels_set_threads(threads);
        k->hessian(rows, n, x, h);
        k->mirror(n, h);
        EXPECT_SAME_FLOATS(h, first, n * n, "%d threads", threads);
        if (h != first)
            free(h);
    }
    free(x);
    free(first);
}

Test(mirror, copies_the_upper_triangle)
{
    static const int64_t sizes[] = {0, 1, 2, 31, 32, 33, 200};

    for (int s = 0; s < COUNT(sizes); s++)
        EACH_RUN(run)
        {
            int64_t n = sizes[s];
            float *h = random_floats(n * n, 1, 1), *want = copy_of(h, n * n, 4);
            run.k->mirror(n, h);
            reference()->mirror(n, want);
            EXPECT_SAME_FLOATS(h, want, n * n, "%s: %lld", run.name, (long long)n);
            for (int64_t i = 0; i < n * n; i++)
                cr_assert(h[i] == h[i % n * n + i / n]);
            free(h);
            free(want);
        }
}

/* ---- split products ---- */

static void split_parts(const struct qp_kernels *k, int64_t count, const float *x, uint16_t **high, uint16_t **low)
{
    *high = fresh(count, sizeof **high);
    *low = fresh(count, sizeof **low);
    k->split(count, x, *high, *low);
}

Test(split, gives_the_references_parts_which_add_up)
{
    const int64_t count = 1003;
    float *x = random_floats(count, 3, 1);
    uint16_t *want_high, *want_low;
    x[0] = 0, x[1] = 1, x[2] = 1 + 0x1p-9f, x[3] = -0x1p100f;
    split_parts(reference(), count, x, &want_high, &want_low);
    for (int64_t i = 0; i < count; i++) {
        double sum = (double)qp_bf16_to_f32(want_high[i]) + (double)qp_bf16_to_f32(want_low[i]);
        cr_assert_leq(fabs(sum - (double)x[i]), 0x1p-16 * fabs((double)x[i]), "%g", (double)x[i]);
    }
    EACH_RUN(run)
    {
        uint16_t *high, *low;
        split_parts(run.k, count, x, &high, &low);
        EXPECT_SAME_BYTES((uint8_t *)high, (uint8_t *)want_high, count * 2, "%s", run.name);
        EXPECT_SAME_BYTES((uint8_t *)low, (uint8_t *)want_low, count * 2, "%s", run.name);
        free(high);
        free(low);
    }
    free(x);
    free(want_high);
    free(want_low);
}

static void linear_split(int64_t m, int64_t n, int64_t k)
{
    int64_t ldx = k + 3, ldw = k + 5, ldy = n + 2;
    float *x = random_floats(m * ldx, 1, 1), *w = random_floats(n * ldw, 1, 2), *y = random_floats(m * ldy, 1, 3);
    float *want = copy_of(y, m * ldy, 4);
    struct qp_linear_split l = {.m = m, .n = n, .k = k, .x_stride = ldx, .w_stride = ldw, .y_stride = ldy};
    uint16_t *parts[4];

    split_parts(reference(), m * ldx, x, &parts[0], &parts[1]);
    split_parts(reference(), n * ldw, w, &parts[2], &parts[3]);
    l.x_high = parts[0], l.x_low = parts[1], l.w_high = parts[2], l.w_low = parts[3];
    for (int64_t i = 0; i < m; i++) /* the product of the numbers themselves */
        for (int64_t j = 0; j < n; j++) {
            double sum = want[i * ldy + j];
            for (int64_t p = 0; p < k; p++)
                sum += (double)x[i * ldx + p] * (double)w[j * ldw + p];
            want[i * ldy + j] = (float)sum;
        }
    for (int r = -1; r < 0 || nth_run(r).k != NULL; r++) {
        const struct qp_kernels *kernels = r < 0 ? reference() : nth_run(r).k;
        l.y = copy_of(y, m * ldy, 4);
        kernels->linear_split(&l);
        EXPECT_NEAR(l.y, want, m * ldy, 0x1p-16 * 4 * (sqrt((double)k) + 1) + 1e-6 * (double)k, "%s: %d x %d x %d",
                    kernels->backend, (int)m, (int)n, (int)k);
        free(l.y);
    }
    for (int i = 0; i < 4; i++)
        free(parts[i]);
    free(x);
    free(w);
    free(y);
    free(want);
}

Test(split, products_are_those_of_float32)
{
    linear_split(1, 1, 1);
    linear_split(3, 5, 0);
    linear_split(0, 4, 7);
    linear_split(17, 33, 129);
    linear_split(300, 40, 200);
    linear_split(9, 1100, 64);
}
