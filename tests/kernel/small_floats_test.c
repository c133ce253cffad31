#include <stddef.h>
#include <stdint.h>

#include "tests/kernel/golden/small_floats.h"
#include "tests/kernel/harness.h"

/* The formats by their definition (OCP MX 1.0, table of element formats; OFP8), independent of the bit tricks. */
static const struct format {
    enum qp_dtype dtype;
    int bits, mantissa, bias;
    int codes; /* of finite numbers >= 0 */
    int nan;   /* its code without sign, 0 where there is none */
} formats[] = {
    {QP_F8_E4M3, 8, 3, 7, 0x7f, 0x7f}, {QP_F8_E5M2, 8, 2, 15, 0x7c, 0x7f}, {QP_F6_E2M3, 6, 3, 1, 0x20, 0},
    {QP_F6_E3M2, 6, 2, 3, 0x20, 0},    {QP_F4_E2M1, 4, 1, 1, 0x08, 0},
};

static double value_of(const struct format *f, int code)
{
    int exponent = code >> f->mantissa, fraction = code & ((1 << f->mantissa) - 1);

    if (exponent == 0)
        return ldexp(fraction, 1 - f->bias - f->mantissa);
    return ldexp((1 << f->mantissa) + fraction, exponent - f->bias - f->mantissa);
}

static uint8_t nearest(const struct format *f, float x)
{
    int sign = (signbit(x) != 0) << (f->bits - 1), best = 0;
    double magnitude = fmin(fabs((double)x), 1e6); /* so that what is far above has the largest for its nearest */

    if (isnan(x))
        return (uint8_t)(sign | f->nan);
    for (int code = 1; code < f->codes; code++) {
        double gain = fabs(magnitude - value_of(f, best)) - fabs(magnitude - value_of(f, code));
        best = gain > 0 || (gain == 0 && code % 2 == 0) ? code : best;
    }
    return (uint8_t)(sign | best);
}

/* 2^e with the least |x - 2^e|, the larger of two. */
static uint8_t nearest_power(float x)
{
    double magnitude = fabs((double)x);
    int best = -127;

    if (isnan(x))
        return 0xff;
    for (int e = -126; e <= 127; e++)
        best = fabs(magnitude - ldexp(1, e)) <= fabs(magnitude - ldexp(1, best)) ? e : best;
    return (uint8_t)(best + 127);
}

/* ---- inputs: every BF16 and F16 number, and of every float32 exponent the mantissas where something changes ---- */

enum { DENSE = 2 * 256 * 80, INPUTS = 2 * 65536 + DENSE };

static float *inputs(void)
{
    float *x = fresh(INPUTS, sizeof *x);
    uint64_t seed = 9;
    int n = 2 * 65536;

    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t half = (uint16_t)i;
        uint32_t bits = i << 16;
        memcpy(x + i, &bits, sizeof bits);
        reference()->to_f32(QP_F16, 1, &half, x + 65536 + i);
    }
    for (uint32_t top = 0; top < 512; top++)
        for (uint32_t k = 0; k < 80; k++) {
            uint32_t sixteenth =
                (k / 4) << 19; /* of a binade: numbers and ties of at most 3 bits, and both neighbours */
            uint32_t low = k < 64 ? (sixteenth + (k % 4 == 0   ? 0
                                                  : k % 4 == 1 ? 1
                                                               : 0x7fffff)) &
                                        0x7fffff
                                  : (uint32_t)next_random(&seed) & 0x7fffff;
            uint32_t bits = top << 23 | (k % 4 == 3 && k < 64 ? sixteenth + 0x40000 : low);
            memcpy(x + n++, &bits, sizeof bits);
        }
    return x;
}

static void expect_cast(enum qp_dtype dtype, const float *x, const uint8_t *want)
{
    uint8_t *got = fresh(INPUTS, 1);

    for (struct run run = {.k = reference(), .index = -1, .name = "reference"}; run.k != NULL;
         run = nth_run(run.index + 1)) {
        run.k->from_f32(dtype, INPUTS, x, got);
        for (int i = 0; i < INPUTS; i++)
            cr_assert_eq(got[i], want[i], "%s: %s of %a is %x, not %x", run.name, qp_dtype_name(dtype), (double)x[i],
                         got[i], want[i]);
    }
    free(got);
}

Test(small_floats, every_cast_finds_the_nearest_number)
{
    float *x = inputs();
    uint8_t *want = fresh(INPUTS, 1);

    for (int f = 0; f < COUNT(formats); f++) {
        for (int i = 0; i < INPUTS; i++)
            want[i] = nearest(&formats[f], x[i]);
        expect_cast(formats[f].dtype, x, want);
    }
    for (int i = 0; i < INPUTS; i++)
        want[i] = nearest_power(x[i]);
    expect_cast(QP_F8_E8M0, x, want);
    free(x);
    free(want);
}

static float decoded(const struct format *f, int code)
{
    int sign = code >> (f->bits - 1), magnitude = code & ((1 << (f->bits - 1)) - 1);
    double value = magnitude < f->codes ? value_of(f, magnitude) : NAN;

    if (f->dtype == QP_F8_E5M2 && magnitude == f->codes)
        value = INFINITY;
    return (float)(sign != 0 ? -value : value);
}

Test(small_floats, every_code_decodes_by_definition)
{
    uint8_t codes[256];
    float want[256], got[256];

    for (int i = 0; i < 256; i++)
        codes[i] = (uint8_t)i;
    EACH_RUN(run)
    {
        for (int f = 0; f < COUNT(formats); f++) {
            int count = 1 << formats[f].bits;
            for (int i = 0; i < count; i++)
                want[i] = decoded(&formats[f], i);
            reference()->to_f32(formats[f].dtype, count, codes, got);
            EXPECT_SAME_FLOATS(got, want, count, "reference, %s", qp_dtype_name(formats[f].dtype));
            run.k->to_f32(formats[f].dtype, count, codes, got);
            EXPECT_SAME_FLOATS(got, want, count, "%s, %s", run.name, qp_dtype_name(formats[f].dtype));
        }
        for (int i = 0; i < 256; i++)
            want[i] = i == 255 ? NAN : (float)ldexp(1, i - 127);
        reference()->to_f32(QP_F8_E8M0, 256, codes, got);
        EXPECT_SAME_FLOATS(got, want, 256, "reference, E8M0");
        run.k->to_f32(QP_F8_E8M0, 256, codes, got);
        EXPECT_SAME_FLOATS(got, want, 256, "%s, E8M0", run.name);
    }
}

/* ---- against torch and compressed-tensors ---- */

static uint64_t hash(const void *data, int64_t bytes)
{
    uint64_t h = 0xcbf29ce484222325;
    for (int64_t i = 0; i < bytes; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001b3;
    return h;
}

/* The inputs of make_casts.py, less NaN. */
static int64_t golden_inputs(float *x)
{
    int64_t n = 0;

    for (uint32_t i = 0; i < 2 * 65536; i++) {
        uint32_t bits = i << 16 | (i < 65536 ? i * 40503 & 0xffff : 0x8000);
        memcpy(x + n, &bits, sizeof bits);
        n += !isnan(x[n]);
    }
    return n;
}

Test(small_floats, casts_agree_with_torch_and_compressed_tensors)
{
    float *x = fresh(2 * 65536, sizeof *x);
    uint8_t *codes = fresh(2 * 65536, 1);
    int64_t n = golden_inputs(x), normal = 0;

    EACH_RUN(run)
    {
        run.k->from_f32(QP_F4_E2M1, n, x, codes);
        cr_assert_eq(hash(codes, n), cast_hashes[E2M1], "%s: E2M1", run.name);
        run.k->from_f32(QP_F6_E2M3, n, x, codes);
        cr_assert_eq(hash(codes, n), cast_hashes[E2M3], "%s: E2M3", run.name);
    }
    for (int64_t i = 0; i < n; i++)
        if (x[i] >= 0x1p-126f && x[i] <= 0x1p127f)
            x[normal++] = x[i];
    EACH_RUN(run)
    {
        run.k->from_f32(QP_F8_E8M0, normal, x, codes);
        cr_assert_eq(hash(codes, normal), cast_hashes[E8M0], "%s: E8M0", run.name);
    }
    free(x);
    free(codes);
}

static float *golden_weights(float *absmax)
{
    float *w = fresh(64 * 256, sizeof *w);
    uint64_t state = 1;

    *absmax = 0;
    for (int i = 0; i < 64 * 256; i++) {
        int32_t whole = (int32_t)(next_random(&state) >> 40) - (1 << 23);
        w[i] = i / 256 == 5 ? 0 : ldexpf((float)whole, i / 256 % 9 - 43);
        *absmax = fmaxf(*absmax, fabsf(w[i]));
    }
    return w;
}

Test(small_floats, schemes_agree_with_compressed_tensors)
{
    float absmax, *w = golden_weights(&absmax), *scale = fresh(64 * 16, sizeof *scale);
    uint8_t *codes = fresh(64 * 256, 1);
    const struct {
        struct qp_number_format format;
        int group;
    } cases[] = {
        {{QP_F4_E2M1, 4, true, false, QP_F8_E4M3, 0, 448 * 6 / absmax}, 16},
        {{QP_F4_E2M1, 4, true, false, QP_F8_E8M0, QP_SCALE_EVEN, 0}, 32},
        {{QP_F6_E2M3, 6, true, false, QP_F8_E8M0, QP_SCALE_EVEN, 0}, 32},
    };

    EACH_RUN(run)
    {
        for (int c = 0; c < COUNT(cases); c++) {
            int groups = 256 / cases[c].group;
            run.k->qparams(&cases[c].format, 64, 256, cases[c].group, w, scale, NULL);
            run.k->quantize(&(struct qp_grouped){&cases[c].format, 64, 256, cases[c].group, scale, NULL}, w, codes);
            memset(scale + (ptrdiff_t)5 * groups, 0, (size_t)groups * sizeof *scale); /* of zeros: a rule of our own */
            cr_assert_eq(hash(scale, (int64_t)64 * groups * 4), scheme_hashes[c].scales, "%s: scales of %d", run.name,
                         c);
            cr_assert_eq(hash(codes, 64 * 256), scheme_hashes[c].codes, "%s: codes of %d", run.name, c);
        }
    }
    free(w);
    free(scale);
    free(codes);
}
