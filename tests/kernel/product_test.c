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

/* x[rows, columns] as a left operand, in parts of which those before column `from` are made last. */
static uint16_t *split_left(const struct qp_kernels *k, int64_t rows, int64_t columns, int64_t from, const float *x)
{
    uint16_t *tiles = fresh(qp_tiles_size(rows, columns) * 2, sizeof *tiles);
    int64_t across = qp_tiles_across(columns);

    for (int64_t at = 0; at < columns; at += from)
        k->split_left(
            &(struct qp_split_left){rows, at, at + from < columns ? at + from : columns, x, columns, across, tiles});
    return tiles;
}

static float *split_right(const struct qp_kernels *k, int64_t rows, int64_t columns, const float *w)
{
    float *tiles = fresh(qp_tiles_size(rows, columns), sizeof *tiles);

    memcpy(tiles, w, (size_t)(rows * columns) * sizeof *w);
    k->split_right(rows, columns, tiles);
    return tiles;
}

static void expect_sum(const uint16_t *part, float x)
{
    double sum = (double)qp_bf16_to_f32(part[0]) + (double)qp_bf16_to_f32(part[QP_TILE]);
    cr_assert_leq(fabs(sum - (double)x), 0x1p-16 * fabs((double)x), "%g", (double)x);
}

static void split(int64_t rows, int64_t columns)
{
    float *x = random_floats(rows * columns, 3, 1);
    int64_t across = qp_tiles_across(columns), parts = qp_tiles_size(rows, columns) * 2;
    if (columns > 3)
        x[0] = 0, x[1] = 1, x[2] = 1 + 0x1p-9f, x[3] = -0x1p100f;
    uint16_t *left = split_left(reference(), rows, columns, columns, x);
    float *right = split_right(reference(), rows, columns, x);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            expect_sum(left + qp_left_at(across, r, c), x[r * columns + c]);
            expect_sum((uint16_t *)right + qp_right_at(across, r, c), x[r * columns + c]);
        }
    EACH_RUN(run)
    {
        for (int64_t from = 1; from <= 64; from += 21) {
            uint16_t *got = split_left(run.k, rows, columns, from, x);
            EXPECT_SAME_BYTES((uint8_t *)got, (uint8_t *)left, parts * 2, "%s: left", run.name);
            free(got);
        }
        float *got = split_right(run.k, rows, columns, x);
        EXPECT_SAME_BYTES((uint8_t *)got, (uint8_t *)right, parts * 2, "%s: right", run.name);
        free(got);
    }
    free(x);
    free(left);
    free(right);
}

Test(split, gives_the_references_parts_which_add_up)
{
    split(1, 1);
    split(16, 32);
    split(17, 33);
    split(5, 200);
    split(120, 97);
    split(300, 320);
}

/* A product of columns [from, to) of x by rows [into, end) of w, and what rows of y get when others are left out. */
struct span {
    int64_t m, n, k, from, to, into, end;
};

static void linear_split(const struct span *s)
{
    int64_t ldy = s->n + 2;
    float *x = random_floats(s->m * s->k, 1, 1), *w = random_floats(s->n * s->k, 1, 2);
    float *y = random_floats(s->m * ldy, 1, 3), *want = copy_of(y, s->m * ldy, 4);
    uint16_t *left = split_left(reference(), s->m, s->k, s->k, x);
    float *right = split_right(reference(), s->n, s->k, w);
    struct qp_linear_split l = {.m = s->m, .from = s->from, .to = s->to, .into = s->into, .end = s->end};

    l.across = qp_tiles_across(s->k), l.x = left, l.w = (const uint16_t *)right, l.y_stride = ldy;
    for (int64_t i = 0; i < s->m; i++) /* the product of the numbers themselves */
        for (int64_t j = s->into; j < s->end; j++) {
            double sum = want[i * ldy + j];
            for (int64_t p = s->from; p < s->to; p++)
                sum += (double)x[i * s->k + p] * (double)w[j * s->k + p];
            want[i * ldy + j] = (float)sum;
        }
    for (int r = -1; r < 0 || nth_run(r).k != NULL; r++) {
        const struct qp_kernels *kernels = r < 0 ? reference() : nth_run(r).k;
        float *got = l.y = copy_of(y, s->m * ldy, 4);
        l.m = s->m;
        kernels->linear_split(&l);
        EXPECT_NEAR(got, want, s->m * ldy, 0x1p-16 * 4 * (sqrt((double)s->k) + 1) + 1e-6 * (double)s->k,
                    "%s: %d x %d x %d", kernels->backend, (int)s->m, (int)s->n, (int)s->k);
        if (s->m > 3) { /* a row does not depend on the others */
            l.m = s->m / 2 - 1, l.y = copy_of(y, s->m * ldy, 4);
            kernels->linear_split(&l);
            EXPECT_SAME_FLOATS(l.y, got, l.m * ldy, "%s: fewer rows", kernels->backend);
            free(l.y);
        }
        free(got);
    }
    free(x);
    free(w);
    free(y);
    free(want);
    free(left);
    free(right);
}

Test(split, products_are_those_of_float32)
{
    static const struct span spans[] = {
        {1, 1, 1, 0, 1, 0, 1},
        {3, 5, 8, 3, 3, 0, 5},
        {0, 4, 7, 0, 7, 0, 4},
        {4, 40, 40, 0, 40, 7, 7},
        {17, 33, 129, 0, 129, 0, 33},
        {300, 40, 200, 0, 200, 0, 40},
        {9, 1100, 64, 0, 64, 0, 1100},
        {32, 256, 256, 0, 128, 128, 256},
        {48, 256, 256, 128, 256, 0, 128},
        {30, 100, 100, 5, 20, 20, 100},
        {30, 100, 100, 30, 70, 3, 29},
        {40, 1200, 1200, 10, 600, 600, 1200},
    };
    for (int i = 0; i < COUNT(spans); i++)
        linear_split(&spans[i]);
}
