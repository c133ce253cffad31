#include <float.h>

#include "tests/kernel/harness.h"

/* Scales of ranges, by the formulas of kernels/quant.h in double. */

static const struct element {
    enum qp_dtype codes;
    int bits, mantissa; /* fraction bits in the binade of the largest number */
    double largest;     /* as the 1 of an E8M0 scale counts */
    int exponent;       /* of the largest */
} elements[] = {
    {QP_F8_E4M3, 8, 3, 448, 8}, {QP_F8_E5M2, 8, 2, 57344, 15}, {QP_F6_E2M3, 6, 3, 7.5, 2}, {QP_F6_E3M2, 6, 2, 28, 4},
    {QP_F4_E2M1, 4, 1, 6, 2},   {QP_I8, 8, 6, 127.0 / 64, 0},  {QP_I8, 4, 2, 7.0 / 4, 0},
};

/* The greatest e with 2^e <= x > 0. */
static int floor_log2(double x)
{
    int e;
    frexp(x, &e); /* x = f 2^e, 1/2 <= f < 1 */
    return e - 1;
}

static int exponent_by(enum qp_scale_rule rule, const struct element *t, double amax)
{
    int e;

    if (amax == 0)
        return -127;
    if (rule == QP_SCALE_CEIL) {
        for (e = -127; e < 127 && ldexp(t->largest, e) < amax; e++) {
        }
        return e;
    }
    if (rule == QP_SCALE_EVEN) {
        int mantissa = t->codes == QP_F8_E4M3 ? 1 : t->mantissa;
        double step = ldexp(1, floor_log2(amax) - mantissa);
        amax = rint(amax / step) * step;
    }
    e = floor_log2(amax) - t->exponent;
    return e < -127 ? -127 : e > 127 ? 127 : e;
}

/* Powers of two, all sixteenths of a few binades and the largest elements, with the float on either side of each. */
static int ranges(float *amax)
{
    static const int binades[] = {-149, -140, -128, -127, -126, -125, -20, -1, 0, 1, 8, 20, 119, 126, 127};
    int n = 0;

    amax[n++] = 0;
    for (int b = 0; b < COUNT(binades); b++)
        for (int i = 0; i < 128; i++) {
            float x = ldexpf(1 + (float)i / 128, binades[b]);
            amax[n++] = x;
            amax[n++] = nextafterf(x, 0);
            amax[n++] = nextafterf(x, FLT_MAX);
        }
    return n;
}

static void expect_power(const struct element *t, enum qp_scale_rule rule, float amax)
{
    struct qp_number_format format = {.codes = t->codes,
                                      .bits = t->bits,
                                      .symmetric = true,
                                      .scale_dtype = QP_F8_E8M0,
                                      .rule = rule,
                                      .narrow = rule == QP_SCALE_EVEN};
    double unit = t->codes == QP_I8 ? 1 << (t->bits - 2) : 1;
    float w[] = {0, -amax}, scale;
    uint8_t code;

    reference()->qparams(&format, 1, 2, 2, w, &scale, NULL);
    int got = floor_log2((double)scale * unit), want = exponent_by(rule, t, (double)amax);
    cr_assert(got == want && ldexp(1, got) == (double)scale * unit, "%s, rule %d, %a: 2^%d, not 2^%d",
              qp_dtype_name(t->codes), (int)rule, (double)amax, got, want);
    float stored = qp_scale_stored(&format, scale);
    reference()->from_f32(QP_F8_E8M0, 1, &stored, &code);
    cr_assert_eq(code, want + 127);
}

Test(scales, powers_of_two_follow_their_rule)
{
    float *amax = fresh(1 + 15 * 128 * 3, sizeof *amax);
    int n = ranges(amax);

    for (int t = 0; t < COUNT(elements); t++)
        for (int rule = QP_SCALE_FLOOR; rule <= QP_SCALE_EVEN; rule++)
            for (int i = 0; i < n; i++)
                if (isfinite(amax[i]))
                    expect_power(&elements[t], (enum qp_scale_rule)rule, amax[i]);
    free(amax);
}

Test(scales, ceil_never_clips_and_floor_clips_at_most_a_quarter)
{
    uint64_t seed = 2;

    for (int i = 0; i < 2000; i++) {
        struct qp_number_format format = {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E8M0};
        float amax = fabsf(next_normal(&seed)) + 1e-6f, scale;
        reference()->qparams(&format, 1, 1, 1, &amax, &scale, NULL);
        cr_assert(6 * scale >= 0.75f * amax && 4 * scale <= amax);
        format.rule = QP_SCALE_CEIL;
        reference()->qparams(&format, 1, 1, 1, &amax, &scale, NULL);
        cr_assert(6 * scale >= amax && 3 * scale < amax);
    }
}

static double e4m3_value(int c)
{
    return c < 8 ? ldexp(c, -9) : ldexp(8 + c % 8, c / 8 - 10);
}

/* The nearest of E4M3's numbers from 2^-9 to 448, ties to the even code, without the casts under test. */
static uint8_t nearest_e4m3(double x)
{
    int best = 1;

    for (int code = 2; code <= 0x7e; code++) {
        double gain = fabs(x - e4m3_value(best)) - fabs(x - e4m3_value(code));
        best = gain > 0 || (gain == 0 && code % 2 == 0) ? code : best;
    }
    return (uint8_t)best;
}

Test(scales, two_levels_are_e4m3_below_the_global_scale)
{
    uint64_t seed = 4;

    for (int i = 0; i < 20000; i++) {
        float global = exp2f(20 * next_normal(&seed)), amax = fabsf(next_normal(&seed)) * 3000 / global, scale;
        if (i % 4 == 0)
            amax *= 0x1p-12f;
        struct qp_number_format format = {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, QP_SCALE_FLOOR, global};
        uint8_t code, want = nearest_e4m3((double)(amax / 6 * global));
        reference()->qparams(&format, 1, 1, 1, &amax, &scale, NULL);
        cr_assert_eq(scale, (float)e4m3_value(want) / global, "amax %a, global %a: %a", (double)amax, (double)global,
                     (double)scale);
        float stored = qp_scale_stored(&format, scale);
        reference()->from_f32(QP_F8_E4M3, 1, &stored, &code);
        cr_assert_eq(code, want, "a stored scale comes back");
    }
}

Test(scales, two_levels_at_their_ends)
{
    const struct qp_number_format format = {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, QP_SCALE_FLOOR, 128};
    const float w[] = {0, -0.0f, NAN, INFINITY, -INFINITY, 1e30f, 1e-30f};
    const float want[] = {0x1p-16f, 0x1p-16f, 0x1p-16f, 3.5f, 3.5f, 3.5f, 0x1p-16f};
    float scale[COUNT(w)];

    reference()->qparams(&format, COUNT(w), 1, 1, w, scale, NULL);
    EXPECT_SAME_FLOATS(scale, want, COUNT(w), "the least and the largest code");
}

/* modelopt: absmax / 7 and absmax / 127; the codes still reach qmin (section "INT fake quant" of its tensor_quant). */
Test(scales, narrow_formats_map_the_absmax_to_the_largest_code)
{
    const struct qp_number_format four = {
        .codes = QP_I8, .bits = 4, .symmetric = true, .narrow = true, .scale_dtype = QP_F32};
    const struct qp_number_format eight = {
        .codes = QP_I8, .bits = 8, .symmetric = true, .narrow = true, .scale_dtype = QP_F32};
    const float w[] = {-3.5f, 3.5f, 1.25f, 1.75f, -0.25f, -0.75f};
    const int8_t want[] = {-7, 7, 2, 4, 0, -2};
    uint8_t codes[6];
    float scale, half = 0.5f;

    reference()->qparams(&four, 1, 6, 6, w, &scale, NULL);
    cr_assert_eq(scale, 0.5f);
    EACH_RUN(run)
    {
        run.k->quantize(&(struct qp_grouped){&four, 1, 6, 6, &scale, NULL}, w, codes);
        EXPECT_SAME_BYTES((int8_t *)codes, want, 6, "%s: ties to even", run.name);
        run.k->quantize(&(struct qp_grouped){&four, 1, 6, 6, &half, NULL}, (float[]){-4, -9, 9, 0, 0, 0}, codes);
        EXPECT_SAME_BYTES((int8_t *)codes, ((int8_t[]){-8, -8, 7, 0, 0, 0}), 6, "%s: the full range", run.name);
    }
    reference()->qparams(&eight, 1, 6, 6, w, &scale, NULL);
    cr_assert_eq(scale, 3.5f / 127);
}

/* MXINT8 by hand: absmax 1.5 has exponent 0, elements are 64ths. */
Test(scales, mxint8_counts_in_64ths)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_F8_E8M0};
    const float w[] = {1.5f, -1.5f, 0.0078125f, 0.0234375f, -1};
    const int8_t want[] = {96, -96, 0, 2, -64};
    uint8_t codes[5];
    float scale;

    reference()->qparams(&format, 1, 5, 5, w, &scale, NULL);
    cr_assert_eq(scale, 1.0f / 64);
    reference()->quantize(&(struct qp_grouped){&format, 1, 5, 5, &scale, NULL}, w, codes);
    EXPECT_SAME_BYTES((int8_t *)codes, want, 5, "codes");
}
