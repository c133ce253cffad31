#include "kernels/codec.h"
#include "tests/kernel/harness.h"

static uint16_t *random_bf16(int64_t count, float deviation, uint64_t seed)
{
    float *wide = random_floats(count, deviation, seed);
    uint16_t *x = fresh(count, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = qp_f32_to_bf16(wide[i]);
    free(wide);
    return x;
}

/* Bound of a float32 sum of k products, each of size 1, in any order. */
static double sum_bound(int64_t k)
{
    return 4e-7 * sqrt((double)k + 1) * (4 + sqrt((double)k));
}

static void linear(int64_t m, int64_t n, int64_t k, bool add)
{
    uint16_t *x = random_bf16(m * k, 1, 1), *w = random_bf16(n * k, 1, 2);
    float *y = random_floats(m * n, 1, 3), *want;

    for (int64_t i = 0; !add && i < m * n; i++)
        y[i] = NAN; /* must not be read */
    want = copy_of(y, m * n, 4);
    reference()->linear_bf16(m, n, k, x, w, add, want);
    EACH_RUN(run)
    {
        float *got = copy_of(y, m * n, 4);
        run.k->linear_bf16(m, n, k, x, w, add, got);
        EXPECT_NEAR(got, want, m * n, sum_bound(k), "%s: %lld x %lld x %lld", run.name, (long long)m, (long long)n,
                    (long long)k);
        free(got);
    }
    free(x);
    free(w);
    free(y);
    free(want);
}

Test(linear_bf16, agrees_with_the_reference)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 33, 17},    {17, 1, 5},     {7, 9, 0},
                                       {64, 64, 64}, {48, 96, 31},   {300, 67, 129}, {0, 5, 3},
                                       {5, 0, 3},    {20, 1100, 33}, {9, 40, 4100}};

    for (int s = 0; s < COUNT(sizes); s++)
        for (int add = 0; add < 2; add++)
            linear(sizes[s][0], sizes[s][1], sizes[s][2], add);
}

/* What the contract says of rows, and any number of threads. */
Test(linear_bf16, gives_a_row_the_same_whatever_comes_with_it)
{
    const int64_t m = 530, n = 200, k = 4600;
    uint16_t *x = random_bf16(m * k, 1, 1), *w = random_bf16(n * k, 1, 2);
    float *whole = fresh(m * n, 4), *part = fresh(m * n, 4);
    static const int64_t firsts[] = {0, 1, 255, 300, 466};

    EACH_RUN(run)
    {
        if (run.index % 2 == 0)
            run.k->linear_bf16(m, n, k, x, w, false, whole);
        for (int f = 0; f < COUNT(firsts); f++) {
            int64_t first = firsts[f];
            run.k->linear_bf16(m - first, n, k, x + first * k, w, false, part);
            EXPECT_SAME_FLOATS(part, whole + first * n, (m - first) * n, "%s: from row %lld on", run.name,
                               (long long)first);
        }
    }
    free(x);
    free(w);
    free(whole);
    free(part);
}

static void hessian(int64_t rows, int64_t n)
{
    uint16_t *x = random_bf16(rows * n, 1, 1);
    float *h = random_floats(n * n, 1, 2), *want = copy_of(h, n * n, 4), *first = NULL;
    double bound = 0x1p-22 * (sqrt((double)rows) + 1) * (double)(rows + 4); /* the diagonal sums squares */

    reference()->hessian_bf16(rows, n, x, want);
    reference()->mirror(n, want);
    EACH_RUN(run)
    {
        float *got = copy_of(h, n * n, 4);
        run.k->hessian_bf16(rows, n, x, got);
        run.k->mirror(n, got);
        EXPECT_NEAR(got, want, n * n, bound, "%s: %lld rows, %lld columns", run.name, (long long)rows, (long long)n);
        if (run.index % 2 == 1)
            EXPECT_SAME_FLOATS(got, first, n * n, "%s", run.name);
        free(first);
        first = got;
    }
    free(first);
    free(x);
    free(h);
    free(want);
}

Test(hessian_bf16, agrees_with_the_reference_for_any_number_of_threads)
{
    static const int64_t columns[] = {1, 7, 47, 48, 49, 127, 300}, rows[] = {0, 1, 2, 5, 70, 701};

    for (int c = 0; c < COUNT(columns); c++)
        for (int r = 0; r < COUNT(rows); r++)
            hessian(rows[r], columns[c]);
    hessian(33, 1310); /* several tiles to a row */
    hessian(4130, 65); /* rows in two parts */
}

static double largest_norm(int64_t rows, int64_t n, const float *x)
{
    double largest = 0;
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[r * n + i] * x[r * n + i];
        largest = fmax(largest, sqrt(sum));
    }
    return largest;
}

static void windowed_attention(int64_t sequences, int64_t length, int heads, int kv_heads, int dim, int64_t window,
                               float cap)
{
    int64_t tokens = sequences * length, q_width = (int64_t)heads * dim, kv_width = (int64_t)kv_heads * dim + 3;
    float *q = random_floats(tokens * q_width, 1, 1), *k = random_floats(tokens * kv_width, 1, 2);
    float *v = random_floats(tokens * kv_width, 1, 3), *wide = fresh(tokens * q_width, 4);
    uint16_t *want = fresh(tokens * q_width, 2), *got = fresh(tokens * q_width, 2);
    float *got_wide = fresh(tokens * q_width, 4);
    struct qp_attention a = {.sequences = sequences,
                             .length = length,
                             .heads = heads,
                             .kv_heads = kv_heads,
                             .dim = dim,
                             .scale = (float)(1 / sqrt((double)dim)),
                             .cap = cap,
                             .window = window,
                             .q = q,
                             .k = k,
                             .v = v,
                             .q_stride = q_width,
                             .k_stride = kv_width,
                             .v_stride = kv_width};
    double bound = 0, spread = 1 + a.scale * largest_norm(tokens * heads, dim, q) * largest_norm(tokens, kv_width, k);

    for (int64_t i = 0; i < tokens * kv_width; i++)
        bound = fmax(bound, fabsf(v[i]));
    bound *= 0x1p-7 * spread;
    reference()->attention_bf16(&a, want);
    reference()->to_f32(QP_BF16, tokens * q_width, want, wide);
    EACH_RUN(run)
    {
        run.k->attention_bf16(&a, got);
        run.k->to_f32(QP_BF16, tokens * q_width, got, got_wide);
        EXPECT_NEAR(got_wide, wide, tokens * q_width, bound, "%s: %lld tokens, %d heads of %d, window %lld, cap %g",
                    run.name, (long long)length, heads, dim, (long long)window, (double)cap);
    }
    free(q);
    free(k);
    free(v);
    free(wide);
    free(want);
    free(got);
    free(got_wide);
}

static void attention(int64_t sequences, int64_t length, int heads, int kv_heads, int dim)
{
    windowed_attention(sequences, length, heads, kv_heads, dim, 0, 0);
}

Test(attention_bf16, agrees_with_the_reference_on_windows_and_caps)
{
    static const int windows[] = {0, 1, 17, 64, 65, 150, 500};

    for (int w = 0; w < COUNT(windows); w++)
        for (int cap = 0; cap < 3; cap++)
            windowed_attention(2, 200, 4, 2, 24, windows[w], (float)cap);
}

Test(attention_bf16, agrees_with_the_reference)
{
    attention(1, 1, 1, 1, 2);
    attention(2, 47, 2, 1, 8);
    attention(1, 48, 3, 3, 10);
    attention(3, 65, 4, 2, 64);
    attention(1, 130, 2, 2, 80);
    attention(2, 200, 3, 1, 7);
}

/* One rounding more than the float32 operation: half a unit of BF16's last place, 2^-9; `small`: what may be
 * lost of a small number. */
#define EXPECT_ROUNDED(got, want, count, small, name)                                               \
    for (int64_t i_ = 0; i_ < (count); i_++) {                                                      \
        double g_ = qp_bf16_to_f32((got)[i_]), w_ = qp_bf16_to_f32((want)[i_]);                     \
        cr_assert(isnan(w_) ? isnan(g_) : g_ == w_ || fabs(g_ - w_) <= 0x1p-7 * fabs(w_) + (small), \
                  "%s: element %lld is %g, the reference says %g", (name), (long long)i_, g_, w_);  \
        differing += g_ != w_ && !isnan(w_);                                                        \
    }

Test(rms_norm_bf16, is_the_rounded_norm)
{
    static const int64_t columns[] = {1, 15, 16, 17, 576};

    for (int c = 0; c < COUNT(columns); c++) {
        int64_t rows = 40, n = columns[c], differing = 0;
        float *x = random_floats(rows * n, 3, 1), *gain = random_floats(n, 1, 2);
        uint16_t *want = fresh(rows * n, 2), *got = fresh(rows * n, 2);

        sprinkle(n, x, 0, n < 5 ? 1 : 5);
        reference()->rms_norm_bf16(rows, n, x, gain, 1e-5f, want);
        EACH_RUN(run)
        {
            run.k->rms_norm_bf16(rows, n, x, gain, 1e-5f, got);
            EXPECT_ROUNDED(got, want, rows * n, 1e-35, run.name);
        }
        cr_assert_leq(differing, rows * n / 100, "%lld of %lld round the other way", (long long)differing,
                      (long long)(rows * n));
        free(x);
        free(gain);
        free(want);
        free(got);
    }
}

Test(layer_norm_bf16, is_the_rounded_norm)
{
    static const int64_t columns[] = {1, 15, 16, 17, 576};

    for (int c = 0; c < COUNT(columns); c++) {
        int64_t rows = 40, n = columns[c], differing = 0;
        float *x = random_floats(rows * n, 3, 1), *gain = random_floats(n, 1, 2), *bias = random_floats(n, 1, 3);
        uint16_t *want = fresh(rows * n, 2), *got = fresh(rows * n, 2);

        sprinkle(n, x, 0, n < 5 ? 1 : 5);
        reference()->layer_norm_bf16(rows, n, x, gain, bias, 1e-5f, want);
        EACH_RUN(run)
        {
            run.k->layer_norm_bf16(rows, n, x, gain, bias, 1e-5f, got);
            EXPECT_ROUNDED(got, want, rows * n, 1e-35, run.name);
        }
        cr_assert_leq(differing, rows * n / 100, "%lld of %lld round the other way", (long long)differing,
                      (long long)(rows * n));
        free(x);
        free(gain);
        free(bias);
        free(want);
        free(got);
    }
}

Test(gated_bf16, is_the_rounded_unit)
{
    static const int64_t shapes[][2] = {{0, 4}, {1, 1}, {1, 15}, {2, 16}, {3, 17}, {5, 8000}};

    for (int c = 0; c < COUNT(shapes) * 6; c++) {
        int64_t rows = shapes[c / 6][0], n = shapes[c / 6][1], stride = (c + c / 6) % 2 ? 2 * n : n, differing = 0;
        float *gate = random_floats(rows * stride, 3, 1), *up = random_floats(rows * stride, 1, 2);
        uint16_t *want = fresh(rows * n, 2), *got = fresh(rows * n, 2);
        struct qp_gated g = {(enum qp_act)(c % 6),          rows, n, stride, gate, (c + c / 6) % 3 ? up : NULL,
                             {0.75f, 1.25f, 0.5f, -0.0625f}};

        sprinkle(rows * stride, gate, 0, 7);
        reference()->gated_bf16(&g, want);
        EACH_RUN(run)
        {
            run.k->gated_bf16(&g, got);
            for (int64_t i = 0; i < rows * n; i++) {
                int64_t at = i / n * stride + i % n;
                double x = fabs((double)gate[at]), by = g.up ? fabs((double)up[at]) : 1;
                double size = 1e-6 * by * (g.act == QP_ACT_XIELU ? 2 * x + x * x + 0.0625 : x) + 1e-35;
                if (g.act == QP_ACT_XIELU && isfinite(x) && x > 1e18)
                    continue; /* where terms overflow */

                EXPECT_ROUNDED(got + i, want + i, 1, size, run.name);
            }
        }
        if (g.act != QP_ACT_GELU && g.act != QP_ACT_GELU_TANH && g.act != QP_ACT_XIELU)
            cr_assert_leq(differing, rows * n / 100 + 1);
        free(gate);
        free(up);
        free(want);
        free(got);
    }
}
