#include "tests/kernel/harness.h"

#include "tests/kernel/golden/casts.h"

/* A format by its definition, independent of the bit tricks under test. */
static const struct format {
    enum qp_dtype dtype;
    int bits, mantissa, bias;
    int codes; /* codes of finite numbers >= 0 */
    bool saturates;
} formats[] = {
    {QP_F16, 16, 10, 15, 0x7c00, false},
    {QP_BF16, 16, 7, 127, 0x7f80, false},
    {QP_F8_E4M3, 8, 3, 7, 0x7f, true},
    {QP_F8_E5M2, 8, 2, 15, 0x7c, true},
};

/* The number that a code >= 0 stands for; one past the largest finite code gives the number a further step would. */
static double value_of(const struct format *f, int code)
{
    int exponent = code >> f->mantissa, fraction = code & ((1 << f->mantissa) - 1);

    if (exponent == 0)
        return ldexp(fraction, 1 - f->bias - f->mantissa);
    return ldexp((1 << f->mantissa) + fraction, exponent - f->bias - f->mantissa);
}

/* What finite x >= 0 rounds to, by bisection over the values: nearest, ties to the even code. */
static int nearest(const struct format *f, double x)
{
    int low = 0, high = f->codes; /* value_of(low) <= x < value_of(high), or x is too large */

    if (x >= value_of(f, high))
        return f->saturates ? f->codes - 1 : f->codes;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (value_of(f, middle) <= x)
            low = middle;
        else
            high = middle;
    }
    double below = x - value_of(f, low), above = value_of(f, high) - x;
    int code = below < above || (below == above && low % 2 == 0) ? low : high;
    return f->saturates && code == f->codes ? f->codes - 1 : code;
}

static unsigned code_at(const struct format *f, const void *codes, int64_t i)
{
    return f->bits == 8 ? ((const uint8_t *)codes)[i] : ((const uint16_t *)codes)[i];
}

static bool is_nan_code(const struct format *f, unsigned code)
{
    unsigned magnitude = code & ((1u << (f->bits - 1)) - 1);
    return f->dtype == QP_F8_E4M3 ? magnitude == 0x7f : magnitude > (unsigned)f->codes;
}

static void expect_code(const struct format *f, float x, unsigned code, const char *name)
{
    unsigned sign = 1u << (f->bits - 1), infinity = (unsigned)(f->saturates ? f->codes - 1 : f->codes);

    cr_assert_eq((code & sign) != 0, signbit(x) != 0, "%s: %s of %a lost its sign", name, qp_dtype_name(f->dtype),
                 (double)x);
    if (isnan(x)) {
        cr_assert(is_nan_code(f, code), "%s: %s of NaN is %x", name, qp_dtype_name(f->dtype), code);
        return;
    }
    unsigned want = isinf(x) ? infinity : (unsigned)nearest(f, fabs((double)x));
    cr_assert_eq(code & (sign - 1), want, "%s: %s of %a is %x, not %x", name, qp_dtype_name(f->dtype), (double)x, code,
                 want);
}

static void expect_codes(const struct qp_kernels *k, const char *name, const struct format *f, int64_t count,
                         const float *x)
{
    void *codes = fresh(count, (size_t)f->bits / 8);

    k->from_f32(f->dtype, count, x, codes);
    for (int64_t i = 0; i < count; i++)
        expect_code(f, x[i], code_at(f, codes, i), name);
    free(codes);
}

/* Every number of the format, every midpoint of neighbours, and the floats on either side of both, of both signs. */
static float *boundaries(const struct format *f, int64_t *count)
{
    float *x = fresh(12 * (int64_t)f->codes, sizeof *x);

    *count = 0;
    for (int code = 0; code < f->codes; code++) {
        float exact = (float)value_of(f, code);
        float middle = (float)((value_of(f, code) + value_of(f, code + 1)) / 2);
        float six[] = {exact,  nextafterf(exact, -1), nextafterf(exact, INFINITY),
                       middle, nextafterf(middle, 0), nextafterf(middle, INFINITY)};
        for (int i = 0; i < 12; i++)
            x[(*count)++] = i < 6 ? six[i] : -six[i - 6];
    }
    return x;
}

Test(casts, every_boundary_rounds_half_to_even)
{
    for (int f = 0; f < COUNT(formats); f++) {
        int64_t count;
        float *x = boundaries(&formats[f], &count);
        expect_codes(reference(), "reference", &formats[f], count, x);
        EACH_RUN(run)
        expect_codes(run.k, run.name, &formats[f], count, x);
        free(x);
    }
}

Test(casts, edge_values_and_random_bits)
{
    float *x = fresh(100000, sizeof *x);
    uint64_t seed = 3;

    for (int i = 0; i < 100000; i++) {
        uint32_t bits = (uint32_t)next_random(&seed);
        memcpy(x + i, &bits, sizeof bits);
    }
    sprinkle(100000, x, 0, 50);
    for (int f = 0; f < COUNT(formats); f++) {
        expect_codes(reference(), "reference", &formats[f], 100000, x);
        EACH_RUN(run)
        expect_codes(run.k, run.name, &formats[f], 100000, x);
    }
    free(x);
}

static void expect_values(const struct qp_kernels *k, const char *name, const struct format *f)
{
    int count = 1 << f->bits;
    float *x = fresh(count, sizeof *x);
    uint8_t *codes = fresh(count, 2);

    for (int i = 0; i < count; i++)
        memcpy(codes + i * f->bits / 8, &i, (size_t)f->bits / 8); /* little-endian, as all of this */
    k->to_f32(f->dtype, count, codes, x);
    for (int i = 0; i < count; i++) {
        int magnitude = i & (count / 2 - 1);
        double want = magnitude < f->codes ? value_of(f, magnitude) : magnitude == f->codes ? INFINITY : NAN;
        if (is_nan_code(f, (unsigned)i))
            want = NAN;
        cr_assert(same_float(x[i], (float)(i < count / 2 ? want : -want)), "%s: %s %x is %a", name,
                  qp_dtype_name(f->dtype), (unsigned)i, (double)x[i]);
    }
    free(x);
    free(codes);
}

Test(casts, every_code_decodes_by_definition)
{
    for (int f = 0; f < COUNT(formats); f++) {
        expect_values(reference(), "reference", &formats[f]);
        EACH_RUN(run)
        expect_values(run.k, run.name, &formats[f]);
    }
}

static uint64_t hash(const void *data, int64_t bytes)
{
    uint64_t h = 0xcbf29ce484222325;
    for (int64_t i = 0; i < bytes; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3;
    return h;
}

static const struct format *format_of(enum qp_dtype dtype)
{
    int f = 0;
    while (formats[f].dtype != dtype)
        f++;
    return &formats[f];
}

static uint64_t hash_of_encoding(const struct qp_kernels *k, const struct format *f, unsigned nan)
{
    const int64_t count = 2 * 65536;
    float *x = fresh(count, sizeof *x);
    uint8_t *codes = fresh(count, 2);

    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = i << 16 | (i < 65536 ? i * 40503 & 0xffff : 0x8000);
        memcpy(x + i, &bits, sizeof bits);
    }
    k->from_f32(f->dtype, count, x, codes);
    for (int64_t i = 0; i < count; i++)
        if (isnan(x[i]))
            memcpy(codes + i * f->bits / 8, &nan, (size_t)f->bits / 8);
    uint64_t h = hash(codes, count * f->bits / 8);
    free(x);
    free(codes);
    return h;
}

static uint64_t hash_of_decoding(const struct qp_kernels *k, const struct format *f)
{
    int count = 1 << f->bits;
    const uint32_t nan = 0x7fc00000;
    float *x = fresh(count, sizeof *x);
    uint8_t *codes = fresh(count, 2);

    for (int i = 0; i < count; i++)
        memcpy(codes + i * f->bits / 8, &i, (size_t)f->bits / 8);
    k->to_f32(f->dtype, count, codes, x);
    for (int i = 0; i < count; i++)
        if (isnan(x[i]))
            memcpy(x + i, &nan, sizeof nan);
    uint64_t h = hash(x, (int64_t)count * 4);
    free(x);
    free(codes);
    return h;
}

Test(casts, agree_with_torch)
{
    for (int i = 0; i < COUNT(casts); i++) {
        const struct format *f = format_of(casts[i].dtype);
        const char *name = qp_dtype_name(f->dtype);
        cr_assert_eq(hash_of_encoding(reference(), f, casts[i].nan), casts[i].encoded, "%s, reference", name);
        cr_assert_eq(hash_of_decoding(reference(), f), casts[i].decoded, "%s, reference", name);
        EACH_RUN(run)
        {
            cr_assert_eq(hash_of_encoding(run.k, f, casts[i].nan), casts[i].encoded, "%s, %s", name, run.name);
            cr_assert_eq(hash_of_decoding(run.k, f), casts[i].decoded, "%s, %s", name, run.name);
        }
    }
}

Test(casts, of_f32_f64_and_i8)
{
    const double wide[] = {1, -0.0, 1e300, -1e300, 1e-300, 1 + 0x1p-24, 1 + 0x1.8p-23, NAN, 0x1p-150, 0x1.8p-150};
    const float narrow[] = {1, -0.0f, INFINITY, -INFINITY, 0, 1, 1 + 0x1p-22f, NAN, 0, 0x1p-149f};
    const int8_t bytes[] = {-128, -1, 0, 1, 127};
    const float whole[] = {-128, -1, 0, 1, 127};
    float x[COUNT(wide)];

    EACH_RUN(run)
    {
        run.k->to_f32(QP_F64, COUNT(wide), wide, x);
        EXPECT_SAME_FLOATS(x, narrow, COUNT(wide), "%s: F64", run.name);
        run.k->to_f32(QP_I8, COUNT(bytes), bytes, x);
        EXPECT_SAME_FLOATS(x, whole, COUNT(bytes), "%s: I8", run.name);
        run.k->to_f32(QP_F32, COUNT(narrow), narrow, x);
        EXPECT_SAME_FLOATS(x, narrow, COUNT(narrow), "%s: F32", run.name);
        run.k->from_f32(QP_F32, COUNT(edge_values) > COUNT(x) ? COUNT(x) : COUNT(edge_values), edge_values, x);
        EXPECT_SAME_FLOATS(x, edge_values, COUNT(x), "%s: to F32", run.name);
    }
}

Test(casts, ragged_counts_write_nothing_after_the_end)
{
    float *x = random_floats(100, 1, 1);
    uint16_t codes[101];

    for (int count = 0; count <= 100; count++)
        EACH_RUN(run)
        {
            memset(codes, 0xee, sizeof codes);
            run.k->from_f32(QP_BF16, count, x, codes);
            cr_assert_eq(codes[count], 0xeeee, "%s: %d", run.name, count);
            for (int i = 0; i < count; i++)
                expect_code(&formats[1], x[i], codes[i], run.name);
        }
    free(x);
}
