/* Scales of matrices: what each way to choose them promises. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "libstage/solvers/scales.h"
#include "tests/support/tiny.h"

enum { ROWS = 24, COLS = 48, GROUP = 16, TOKENS = 96 };

static float w[ROWS * COLS], h[COLS * COLS], back[ROWS * COLS], scale[ROWS * COLS];
static int8_t zero[ROWS * COLS];
static uint8_t codes[ROWS * COLS];

static const struct qp_kernels *fill(void)
{
    static float x[TOKENS * COLS];
    const struct qp_kernels *k = qp_kernels_open("ref");
    tiny_random(3, ROWS * COLS, 0.05f, w);
    for (int i = 0; i < ROWS * COLS; i += 37)
        w[i] *= 5.0f; /* outliers, for which a clipped range is better */
    tiny_random(4, TOKENS * COLS, 1.0f, x);
    for (int i = 0; i < TOKENS * COLS; i++)
        x[i] = (x[i] + x[i / COLS * COLS]) * (float)(1 + i % 5);
    for (int i = 0; i < COLS * COLS; i++)
        h[i] = 0.0f;
    k->hessian(TOKENS, COLS, x, h);
    k->mirror(COLS, h);
    return k;
}

static struct qp_quant_spec spec_of(enum qp_granularity granularity, bool symmetric)
{
    return (struct qp_quant_spec){.enabled = true,
                                  .format = {.codes = QP_I8, .bits = 4, .symmetric = symmetric, .scale_dtype = QP_BF16},
                                  .granularity = granularity,
                                  .group = GROUP,
                                  .block_rows = 10};
}

static void choose(const struct qp_kernels *k, const struct qp_quant_spec *spec, enum qp_scale_method method)
{
    struct qp_error err;
    const struct qp_scale_choice choice = {.method = method, .h = h, .shrink = 0.4f, .steps = 40};
    int64_t group = qp_spec_group(spec, COLS);
    cr_assert_eq(
        qp_choose_scales(k, &(struct qp_unscaled){spec, &spec->format, ROWS, COLS, w}, &choice, scale, zero, &err), 0,
        "%s", err.message);
    const int8_t *z = spec->format.symmetric ? NULL : zero;
    k->quantize(&(struct qp_grouped){&spec->format, ROWS, COLS, group, scale, z}, w, codes);
    k->dequantize(&(struct qp_grouped){&spec->format, ROWS, COLS, group, scale, z}, codes, back);
}

/* The error that a method lowers, over the whole matrix. */
static double error_of(enum qp_scale_method method)
{
    double sum = 0.0;
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < COLS; i++) {
            double d = back[r * COLS + i] - w[r * COLS + i];
            if (method == QP_SCALES_MSE)
                sum += pow(fabs(d), 3.0);
            if (method == QP_SCALES_WEIGHTED)
                sum += h[i * COLS + i] * d * d;
            for (int j = i / GROUP * GROUP; method == QP_SCALES_HESSIAN && j < i / GROUP * GROUP + GROUP; j++)
                sum += d * h[i * COLS + j] * (back[r * COLS + j] - w[r * COLS + j]);
        }
    return sum;
}

Test(scales, each_method_lowers_its_own_error_most)
{
    const struct qp_kernels *k = fill();
    for (int symmetric = 0; symmetric < 2; symmetric++) {
        struct qp_quant_spec spec = spec_of(QP_PER_GROUP, symmetric);
        for (int m = QP_SCALES_MSE; m <= QP_SCALES_HESSIAN; m++) {
            choose(k, &spec, (enum qp_scale_method)m);
            double best = error_of((enum qp_scale_method)m);
            for (int other = QP_SCALES_MINMAX; other <= QP_SCALES_HESSIAN; other++) {
                choose(k, &spec, (enum qp_scale_method)other);
                double error = error_of((enum qp_scale_method)m);
                cr_expect_leq(best, error * (1 + 1e-5), "method %d: %g, of method %d %g", m, best, other, error);
            }
            choose(k, &spec, QP_SCALES_MINMAX);
            cr_expect_lt(best, 0.95 * error_of((enum qp_scale_method)m));
        }
    }
}

/* ROWS = 24 in blocks of 10 rows: the last one is short. */
Test(scales, a_block_has_one_scale_that_of_its_range)
{
    const struct qp_kernels *k = fill();
    for (int m = QP_SCALES_MINMAX; m <= QP_SCALES_HESSIAN; m++) {
        struct qp_quant_spec spec = spec_of(QP_PER_BLOCK, true);
        choose(k, &spec, (enum qp_scale_method)m);
        for (int r = 0; r < ROWS; r++)
            for (int g = 0; g < COLS / GROUP; g++) {
                float absmax = 0.0f, mine = scale[r * (COLS / GROUP) + g], expected, tile[10 * GROUP];
                int count = 0;
                cr_assert_eq(mine, scale[r / 10 * 10 * (COLS / GROUP) + g]);
                for (int i = r / 10 * 10; i < r / 10 * 10 + 10 && i < ROWS; i++)
                    for (int j = g * GROUP; j < g * GROUP + GROUP; j++) {
                        tile[count++] = w[i * COLS + j];
                        absmax = fmaxf(absmax, fabsf(w[i * COLS + j]));
                    }
                k->qparams(&spec.format, 1, count, count, tile, &expected, NULL);
                if (m == QP_SCALES_MINMAX)
                    cr_assert_eq(mine, expected);
                cr_assert_leq(mine, expected * 7.6f / 7.0f);
                cr_assert_geq(mine, 0.39f * absmax / 7.5f);
            }
    }
}

Test(scales, a_whole_tensor_has_one)
{
    const struct qp_kernels *k = fill();
    struct qp_quant_spec spec = spec_of(QP_PER_TENSOR, false);
    choose(k, &spec, QP_SCALES_HESSIAN); /* searched as WEIGHTED is */
    double searched = error_of(QP_SCALES_WEIGHTED);
    choose(k, &spec, QP_SCALES_MINMAX);
    cr_expect_lt(searched, error_of(QP_SCALES_WEIGHTED));
}

Test(scales, nvfp4_gets_a_global_scale)
{
    cr_expect_eq(qp_global_scale(2.0f, false), 1344.0f);
    cr_expect_eq(qp_global_scale(0.0f, false), 1.0f);
    cr_expect_eq(qp_global_scale(INFINITY, false), 1.0f);
    cr_expect_eq(qp_global_scale(NAN, false), 1.0f);
    cr_expect_eq(qp_global_scale(1e-40f, false), 1.0f);
    cr_expect_eq(qp_global_scale(2.0f, true), 768.0f);
    cr_expect_eq(qp_global_scale(0.0f, true), 1.0f);
}

/* Sum of squared errors of GROUP numbers rounded to E2M1 times a scale; no number of the test is halfway. */
static double e2m1_error(const float *x, float by)
{
    static const double values[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    double sum = 0.0;
    for (int j = 0; j < GROUP; j++) {
        double nearest = INFINITY;
        for (int v = 0; v < 8; v++)
            nearest = fmin(nearest, fabs(fabs((double)x[j]) - values[v] * by));
        sum += nearest * nearest;
    }
    return sum;
}

/* The largest number of a group becomes 6, or 4 where that has the lower error: both computed here. */
Test(scales, four_over_six_keeps_the_better_of_two)
{
    fill();
    for (int i = 0; i < GROUP; i++)
        w[i] = 0.0f; /* equal errors: 6 stays */
    float absmax = 0.0f;
    for (int i = 0; i < ROWS * COLS; i++)
        absmax = fmaxf(absmax, fabsf(w[i]));
    const char *const backends[] = {"ref", "cpu"};
    for (int b = 0; b < 2; b++) {
        struct qp_quant_spec spec = {.enabled = true, .granularity = QP_PER_GROUP, .group = GROUP};
        spec.four_over_six = true;
        spec.format =
            (struct qp_number_format){.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E4M3};
        spec.format.global = 256.0f * 6.0f / absmax;
        choose(qp_kernels_open(backends[b]), &spec, QP_SCALES_MINMAX);
        int fours = 0;
        for (int g = 0; g < ROWS * COLS / GROUP; g++) {
            const float *x = w + (ptrdiff_t)g * GROUP;
            float largest = 0.0f;
            for (int j = 0; j < GROUP; j++)
                largest = fmaxf(largest, fabsf(x[j]));
            float six = qp_held_scale(&spec.format, largest / 6.0f), four = qp_held_scale(&spec.format, largest / 4.0f);
            bool better = e2m1_error(x, four) < e2m1_error(x, six);
            cr_expect_eq(scale[g], better ? four : six, "%s, group %d: %g of 6 %g, 4 %g", backends[b], g, scale[g], six,
                         four);
            fours += better;
        }
        cr_expect(fours > 10 && fours < ROWS * COLS / GROUP - 10, "%d groups take 4", fours);
    }
}

Test(scales, a_held_scale_is_one_of_its_dtype)
{
    const struct qp_number_format format = {
        .codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E4M3, .global = 8};
    const struct qp_number_format bf16 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};
    cr_expect_eq(qp_held_scale(&format, 0.13f), 0.125f); /* 1.04 is 1 in E4M3 */
    cr_expect_eq(qp_held_scale(&bf16, 1.0f + 0x1p-9f), 1.0f);
    cr_expect_eq(qp_held_scale(&bf16, 1.0f + 0x1p-7f), 1.0f + 0x1p-7f);
}
