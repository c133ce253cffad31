/* The reference against sums written out here in 64 bits, the backends against the reference to the bit. */
#include "tests/kernel/harness.h"

enum { X_ZERO = 1, W_ZERO = 2, ADD = 4, CASES = 8 };

static int8_t *random_codes(int64_t count, uint64_t seed)
{
    int8_t *codes = fresh(count, 1);
    for (int64_t i = 0; i < count; i++)
        codes[i] = (int8_t)next_random(&seed);
    return codes;
}

static float *random_scales(int64_t count, uint64_t seed)
{
    float *scale = random_floats(count, 1, seed);
    for (int64_t i = 0; i < count; i++)
        scale[i] = 0.01f + fabsf(scale[i]);
    return scale;
}

/* One element by the formula of the contract. */
static float element(const struct qp_linear_int8 *l, int64_t i, int64_t j, float before)
{
    int64_t sum = 0;
    for (int64_t c = 0; c < l->k; c++) {
        int64_t x = l->x[i * l->k + c], w = l->w[j * l->k + c];
        sum += (x - (l->x_zero ? l->x_zero[i] : 0)) * (w - (l->w_zero ? l->w_zero[j] : 0));
    }
    volatile float value = (float)sum;
    value *= l->x_scale[i];
    value *= l->w_scale[j];
    return l->add ? before + value : value;
}

static void compare(struct qp_linear_int8 l, const char *what)
{
    float *before = random_floats(l.m * l.n, 3, 9), *want = fresh(l.m * l.n, 4), *got = fresh(l.m * l.n, 4);

    for (int64_t i = 0; !l.add && i < l.m * l.n; i++)
        before[i] = NAN; /* must not be read */
    for (int64_t i = 0; i < l.m; i++)
        for (int64_t j = 0; j < l.n; j++)
            want[i * l.n + j] = element(&l, i, j, before[i * l.n + j]);
    l.y = memcpy(got, before, (size_t)(l.m * l.n) * 4);
    reference()->linear_int8(&l);
    EXPECT_SAME_FLOATS(got, want, l.m * l.n, "the reference, %s", what);
    EACH_RUN(run)
    {
        memcpy(got, before, (size_t)(l.m * l.n) * 4);
        run.k->linear_int8(&l);
        EXPECT_SAME_FLOATS(got, want, l.m * l.n, "%s, %s: %lld x %lld x %lld", run.name, what, (long long)l.m,
                           (long long)l.n, (long long)l.k);
    }
    free(before);
    free(want);
    free(got);
}

static void random_linear(int64_t m, int64_t n, int64_t k, int flags)
{
    int8_t *x = random_codes(m * k, 1), *w = random_codes(n * k, 2), *x_zero = random_codes(m, 3);
    int8_t *w_zero = random_codes(n, 4);
    float *x_scale = random_scales(m, 5), *w_scale = random_scales(n, 6);
    struct qp_linear_int8 l = {
        m,           n,   k, x, w, x_scale, w_scale, flags & X_ZERO ? x_zero : NULL, flags & W_ZERO ? w_zero : NULL,
        flags & ADD, NULL};

    if (m > 2 && k > 0)
        memset(x + k, 0, (size_t)k); /* a token of zeros */
    compare(l, "random codes");
    free(x);
    free(w);
    free(x_zero);
    free(w_zero);
    free(x_scale);
    free(w_scale);
}

Test(linear_int8, is_exact_for_ragged_sizes)
{
    static const int64_t sizes[][3] = {{1, 1, 1},    {1, 33, 17},    {17, 1, 5},     {7, 9, 0},
                                       {64, 64, 64}, {48, 96, 31},   {5, 0, 3},      {0, 5, 3},
                                       {3, 70, 63},  {300, 67, 129}, {20, 1100, 33}, {520, 40, 70}};

    for (int s = 0; s < COUNT(sizes); s++)
        for (int flags = 0; flags < CASES; flags++)
            random_linear(sizes[s][0], sizes[s][1], sizes[s][2], flags);
}

/* The largest sums there are, of either sign, where instructions that add in 16 bits would saturate. */
Test(linear_int8, is_exact_at_the_ends_of_the_codes_and_of_the_depth)
{
    static const int8_t ends[][2] = {{-128, -128}, {-128, 127}, {127, -128}, {127, 127}};
    enum { M = 3, N = 18, K = QP_LINEAR_INT8_DEPTH };
    int8_t *x = fresh(M * K, 1), *w = fresh(N * K, 1), x_zero[M], w_zero[N];
    float x_scale[M] = {1, 0.5f, 3e-3f}, w_scale[N];

    for (int j = 0; j < N; j++)
        w_scale[j] = 1.0f / (float)(j + 1);
    for (int e = 0; e < COUNT(ends); e++) {
        memset(x, ends[e][0], (size_t)M * K);
        memset(w, ends[e][1], (size_t)N * K);
        memset(x_zero, ends[e][0] < 0 ? 127 : -128, M);
        memset(w_zero, ends[e][1] < 0 ? 127 : -128, N);
        compare((struct qp_linear_int8){M, N, K, x, w, x_scale, w_scale, NULL, NULL, false, NULL}, "ends");
        compare((struct qp_linear_int8){M, N, K, x, w, x_scale, w_scale, x_zero, w_zero, true, NULL}, "far zeros");
    }
    free(x);
    free(w);
}
