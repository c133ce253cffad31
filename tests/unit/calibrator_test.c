/* Calibrators against an independent implementation (golden/calibrator.py), and by hand. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>
#include <jansson.h>

#include "libstage/base/cleanup.h"
#include "libstage/calibration/calibrator.h"
#include "libstage/calibration/histogram.h"

static const struct qp_number_format int8 = {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_F32};
static const struct qp_number_format int4 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F32};
static const struct qp_number_format fp8 = {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32};

static const struct qp_number_format *format_of(const char *kind)
{
    return strcmp(kind, "int8") == 0 ? &int8 : strcmp(kind, "int4") == 0 ? &int4 : &fp8;
}

/* ---- logarithmic bins ---- */

Test(histogram, a_bin_begins_at_its_edge)
{
    for (int b = 1; b < QP_LOG_BINS; b++) {
        float x = (float)qp_log_bin_edge(b);
        if (x < qp_log_bin_edge(b)) /* the edge itself is no float32 */
            x = nextafterf(x, INFINITY);
        cr_expect_eq(qp_log_bin(x), b, "%g: %d, expected %d", x, qp_log_bin(x), b);
        cr_expect_eq(qp_log_bin(-x), b);
        cr_expect_eq(qp_log_bin(nextafterf(x, 0.0f)), b - 1, "below %g", x);
    }
}

Test(histogram, numbers_out_of_range_are_in_the_outer_bins)
{
    cr_expect_eq(qp_log_bin(0.0f), 0);
    cr_expect_eq(qp_log_bin(-0.0f), 0);
    cr_expect_eq(qp_log_bin(1e-40f), 0);
    cr_expect_eq(qp_log_bin(1.0f), QP_LOG_BIN_OF_ONE);
    cr_expect_eq(qp_log_bin(1e9f), QP_LOG_BINS - 1);
    cr_expect_eq(qp_log_bin(INFINITY), QP_LOG_BINS - 1);
}

Test(histogram, nan_is_not_counted)
{
    static float counts[2 * QP_LOG_BINS];
    const float x[] = {1.0f, NAN, 2.0f, -1.0f};
    qp_histogram_add(2, 2, x, counts);
    cr_expect_eq(counts[QP_LOG_BIN_OF_ONE], 1.0f);
    cr_expect_eq(counts[QP_LOG_BIN_OF_ONE + QP_LOG_BINS_PER_OCTAVE], 1.0f);
    cr_expect_eq(counts[QP_LOG_BINS + QP_LOG_BIN_OF_ONE], 1.0f);
    double sum = 0.0;
    for (int i = 0; i < 2 * QP_LOG_BINS; i++)
        sum += counts[i];
    cr_expect_eq(sum, 3.0);
}

/* ---- ranges against the golden ones ---- */

enum { CHANNELS = 3 };

static json_t *golden(void)
{
    json_error_t error;
    json_t *cases = json_load_file(SOURCE_DIR "/tests/unit/golden/calibrator.json", 0, &error);
    cr_assert_not_null(cases, "%s", error.text);
    return cases;
}

static double number(const json_t *array, size_t index)
{
    return json_number_value(json_array_get(array, index));
}

static void read_histogram(const json_t *golden_case, struct qp_range_histogram *h)
{
    static float counts[CHANNELS * QP_LOG_BINS];
    float folds[CHANNELS], absmax[CHANNELS];
    size_t i;
    json_t *item;
    memset(counts, 0, sizeof counts);
    json_array_foreach(json_object_get(golden_case, "counts"), i, item)
        counts[(size_t)number(item, 0) * QP_LOG_BINS + (size_t)number(item, 1)] = (float)number(item, 2);
    for (size_t c = 0; c < CHANNELS; c++) {
        folds[c] = (float)number(json_object_get(golden_case, "folds"), c);
        absmax[c] = (float)number(json_object_get(golden_case, "absmax"), c);
    }
    qp_range_histogram(CHANNELS, counts, folds, absmax, h);
}

static void near(double found, double expected, double tolerance, const char *what)
{
    cr_expect(fabs(found - expected) <= tolerance * expected, "%s: found %.9g, expected %.9g", what, found, expected);
}

static void check_case(const json_t *golden_case)
{
    struct qp_range_histogram h;
    const struct qp_kernels *kernels = qp_kernels_open("ref");
    const char *kind;
    size_t i;
    json_t *item, *object = json_object_get(golden_case, "entropy");
    read_histogram(golden_case, &h);
    double sum = 0.0;
    for (int b = 0; b < QP_RANGE_BINS; b++)
        sum += h.bins[b];
    near(sum, 18000.0, 1e-9, "all numbers are in the histogram");
    json_array_foreach(json_object_get(golden_case, "percentile"), i, item)
        near(qp_range_percentile(&h, number(item, 0)), number(item, 1), 1e-6, "percentile");
    json_array_foreach(json_object_get(golden_case, "sorted"), i, item) /* of the numbers themselves */
        near(qp_range_percentile(&h, number(item, 0)), number(item, 1), 0.045, "percentile of the numbers");
    json_object_foreach(object, kind, item)
        near(qp_range_entropy(kernels, format_of(kind), &h), json_number_value(item), 1e-6, kind);
    json_array_foreach(json_object_get(golden_case, "mse"), i, item)
        near(qp_range_mse(kernels, format_of(json_string_value(json_array_get(item, 0))), number(item, 1), &h),
             number(item, 2), 1e-6, json_string_value(json_array_get(item, 0)));
}

Test(calibrator, ranges_are_those_of_another_implementation)
{
    qp_auto_json json_t *cases = golden();
    check_case(json_array_get(cases, 0));
}

Test(calibrator, ranges_of_folded_channels_too)
{
    qp_auto_json json_t *cases = golden();
    check_case(json_array_get(cases, 1));
}

/* ---- by hand ---- */

Test(calibrator, everything_is_below_the_hundredth_percentile)
{
    qp_auto_json json_t *cases = golden();
    struct qp_range_histogram h;
    read_histogram(json_array_get(cases, 0), &h);
    cr_expect_eq(qp_range_percentile(&h, 100.0), (float)h.absmax);
    cr_expect_eq(qp_range_clipped(&h, h.absmax), 0.0);
    cr_expect_float_eq(qp_range_clipped(&h, qp_range_percentile(&h, 99.0)), 0.01, 1e-6);
    cr_expect_float_eq(qp_range_clipped(&h, 0.0), 1.0, 1e-9);
}

Test(calibrator, outliers_are_clipped_when_bits_are_few)
{
    qp_auto_json json_t *cases = golden();
    struct qp_range_histogram h;
    const struct qp_kernels *kernels = qp_kernels_open("cpu");
    read_histogram(json_array_get(cases, 1), &h);
    float four = qp_range_mse(kernels, &int4, 2.0, &h), eight = qp_range_mse(kernels, &int8, 2.0, &h);
    cr_expect_lt(four, eight);
    cr_expect_lt(eight, (float)h.absmax);
}

Test(calibrator, silence_has_no_range)
{
    static const float counts[QP_LOG_BINS] = {100.0f}, absmax[1] = {0.0f};
    struct qp_range_histogram h;
    const struct qp_kernels *kernels = qp_kernels_open("ref");
    qp_range_histogram(1, counts, NULL, absmax, &h);
    cr_expect_eq(qp_range_percentile(&h, 99.0), 0.0f);
    cr_expect_eq(qp_range_entropy(kernels, &int8, &h), 0.0f);
    cr_expect_eq(qp_range_mse(kernels, &int8, 2.0, &h), 0.0f);
    cr_expect_eq(qp_range_clipped(&h, 0.0), 0.0);
}

Test(calibrator, the_averages_of_both_ends_move_by_a_hundredth)
{
    const float least[] = {-1.0f, 2.0f, -3.0f, -2.0f, -8.0f, 0.5f}, most[] = {1.0f, 4.0f, 3.0f, 2.0f, 0.0f, 1.0f};
    const float fold[] = {1.0f, 2.0f};
    double low = -1.0, high = 4.0;
    low += 0.01 * (-3.0 - low);
    low += 0.01 * (-8.0 - low);
    high += 0.01 * (3.0 - high);
    high += 0.01 * (1.0 - high);
    cr_expect_float_eq(qp_range_average(3, 2, least, most, NULL), high, 1e-6);
    high = 2.0 + 0.01 * (3.0 - 2.0);
    high += 0.01 * (0.5 - high);
    cr_expect_float_eq(qp_range_average(3, 2, least, most, fold), high, 1e-6);
    const float below[] = {-5.0f}, above[] = {-4.0f};
    cr_expect_eq(qp_range_average(1, 1, below, above, NULL), 5.0f);
    cr_expect_eq(qp_range_average(1, 1, above, above, NULL), 4.0f);
}

/* ---- ranges of a matrix of activations: golden/ranges.py ---- */

enum { ROWS = 24, COLUMNS = 40, WINDOW = 4 };

static void read_activations(const json_t *file, float *x)
{
    const json_t *numbers = json_object_get(file, "x");
    cr_assert_eq(json_array_size(numbers), ROWS * COLUMNS);
    for (size_t i = 0; i < ROWS * COLUMNS; i++)
        x[i] = (float)number(numbers, i);
}

Test(calibrator, averages_and_headroom_are_those_of_another_implementation)
{
    float x[ROWS * COLUMNS], counts[QP_BLOCK_BINS] = {0.0f}, absmax = 0.0f;
    float least[ROWS / WINDOW * COLUMNS], most[ROWS / WINDOW * COLUMNS];
    size_t i;
    json_t *item;
    qp_auto_json json_t *file = json_load_file(SOURCE_DIR "/tests/unit/golden/ranges.json", 0, NULL);
    read_activations(file, x);
    for (int w = 0; w < ROWS / WINDOW; w++)
        for (int c = 0; c < COLUMNS; c++) {
            float *low = least + w * COLUMNS + c, *high = most + w * COLUMNS + c;
            *low = *high = x[w * WINDOW * COLUMNS + c];
            for (int r = 1; r < WINDOW; r++) {
                *low = fminf(*low, x[(w * WINDOW + r) * COLUMNS + c]);
                *high = fmaxf(*high, x[(w * WINDOW + r) * COLUMNS + c]);
            }
            absmax = fmaxf(absmax, fmaxf(-*low, *high));
        }
    near(qp_range_average(ROWS / WINDOW, COLUMNS, least, most, NULL),
         json_number_value(json_object_get(file, "average")), 1e-6, "average");
    qp_block_histogram_add(ROWS, COLUMNS, x, counts);
    json_array_foreach(json_object_get(file, "headroom"), i, item)
        near(qp_range_headroom(counts, absmax, number(item, 0)), number(item, 1), 1e-6, "headroom");
    cr_expect_eq(i, 3);
}

Test(calibrator, blocks_are_binned_at_their_edges)
{
    cr_expect_eq(qp_block_bin(1.0f), 256);
    cr_expect_eq(qp_block_bin(0.999f), 255);
    cr_expect_eq(qp_block_bin(32.0f), 288); /* 5 octaves are 32 bins */
    cr_expect_eq(qp_block_bin(0x1p-60f), 0);
    cr_expect_eq(qp_block_bin(0x1p60f), QP_BLOCK_BINS - 1);
}

Test(calibrator, headroom_without_anything_is_the_largest)
{
    const float counts[QP_BLOCK_BINS] = {0.0f};
    cr_expect_eq(qp_range_headroom(counts, 3.0f, 16384.0), 3.0f);
}
