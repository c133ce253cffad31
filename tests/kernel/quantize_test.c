#include "tests/kernel/formats.h"
#include "tests/kernel/harness.h"

static const struct {
    int64_t rows, cols, group;
} shapes[] = {{0, 8, 8}, {1, 1, 1},    {1, 1, 0},    {3, 7, 7},      {5, 33, 8},      {4, 128, 128},  {2, 576, 64},
              {3, 0, 1}, {9, 100, 30}, {17, 257, 0}, {70, 576, 128}, {8, 1000, 1000}, {33, 1030, 256}};

struct quantized {
    float *scale;
    int8_t *zero;
    uint8_t *codes;
    float *back;
};

static struct quantized through(const struct qp_kernels *k, const struct qp_number_format *format, int s,
                                const float *w)
{
    int64_t rows = shapes[s].rows, cols = shapes[s].cols, group = shapes[s].group;
    int64_t scales = qp_scale_count(rows, cols, group);
    struct quantized q = {fresh(scales, 4), format->symmetric ? NULL : fresh(scales, 1), fresh(rows * cols, 1),
                          fresh(rows * cols, 4)};

    k->qparams(format, rows, cols, group, w, q.scale, q.zero);
    k->quantize(&(struct qp_grouped){format, rows, cols, group, q.scale, q.zero}, w, q.codes);
    k->dequantize(&(struct qp_grouped){format, rows, cols, group, q.scale, q.zero}, q.codes, q.back);
    return q;
}

static void release(struct quantized *q)
{
    free(q->scale);
    free(q->zero);
    free(q->codes);
    free(q->back);
}

/* 0: plain; 1: with values at rounding boundaries; 2: with NaN and infinities too; 3: zeros; 4: tiny. */
enum { KINDS = 5 };

static float *data(int64_t count, int kind, uint64_t seed)
{
    float *w = random_floats(count, kind == 4 ? 0x1p-140f : 0.05f, seed);

    for (int64_t i = 0; kind == 1 && i < count; i++)
        w[i] = (float)((int)(next_random(&seed) % 511) - 255) / 2;
    if (kind == 2)
        sprinkle(count, w, (int)seed, 5);
    if (kind == 3)
        memset(w, 0, (size_t)count * sizeof *w);
    return w;
}

static void compare(const struct qp_number_format *format, int s, int kind)
{
    int64_t rows = shapes[s].rows, cols = shapes[s].cols, count = rows * cols;
    int64_t scales = qp_scale_count(rows, cols, shapes[s].group);
    float *w = data(count, kind, (uint64_t)(s + 1)), *fake = copy_of(w, count, 4);
    struct quantized want = through(reference(), format, s, w);

    reference()->fake_quantize(format, rows, cols, shapes[s].group, fake);
    EACH_RUN(run)
    {
        struct quantized got = through(run.k, format, s, w);
        float *got_fake = copy_of(w, count, 4);
        char label[128];
        snprintf(label, sizeof label, "%s, %s of %d bits, shape %d, data %d", run.name, qp_dtype_name(format->codes),
                 format->bits, s, kind);
        run.k->fake_quantize(format, rows, cols, shapes[s].group, got_fake);
        EXPECT_SAME_FLOATS(got.scale, want.scale, scales, "%s: scale", label);
        EXPECT_SAME_BYTES(got.codes, want.codes, count, "%s: codes", label);
        EXPECT_SAME_FLOATS(got.back, want.back, count, "%s: values", label);
        EXPECT_SAME_FLOATS(got_fake, fake, count, "%s: fake", label);
        if (want.zero != NULL)
            EXPECT_SAME_BYTES(got.zero, want.zero, scales, "%s: zero", label);
        EXPECT_SAME_FLOATS(want.back, fake, count, "%s: fake against both steps", label);
        release(&got);
        free(got_fake);
    }
    release(&want);
    free(w);
    free(fake);
}

/* Large shapes are there for how rows and groups are divided among threads, which no value changes: they see two kinds
 * of data, small ones all. */
Test(quantize, every_backend_gives_the_reference_s_bits)
{
    for (int g = 0; g < COUNT(formats); g++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int kind = 0; kind < KINDS; kind++)
                if (kind == 0 || kind == 2 || shapes[s].rows * shapes[s].cols < 5000)
                    compare(&formats[g], s, kind);
}

/* Values by hand from compressed-tensors' rule, absmax / 7.5 with half to even. */
Test(quantize, int4_symmetric_by_hand)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F32};
    float w[] = {-7.5f, 7.5f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, NAN};
    const int8_t want[] = {-8, 7, 0, 2, 2, 0, -2, 0};
    struct quantized q = {.scale = (float[1]){0}, .codes = (uint8_t[8]){0}};

    reference()->qparams(&format, 1, 8, 8, w, q.scale, NULL);
    cr_assert_float_eq(q.scale[0], 1, 0);
    reference()->quantize(&(struct qp_grouped){&format, 1, 8, 8, q.scale, NULL}, w, q.codes);
    EXPECT_SAME_BYTES((int8_t *)q.codes, want, 8, "codes");
}

Test(quantize, asymmetric_by_hand)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = false, .scale_dtype = QP_F32};
    float w[] = {-1, 2, 0.5f, 14}, scale, back[4];
    const int8_t want[] = {-8, -5, -6, 7};
    int8_t zero;
    uint8_t codes[4];

    reference()->qparams(&format, 1, 4, 4, w, &scale, &zero);
    cr_assert_float_eq(scale, 1, 0);
    cr_assert_eq(zero, -7);
    reference()->quantize(&(struct qp_grouped){&format, 1, 4, 4, &scale, &zero}, w, codes);
    EXPECT_SAME_BYTES((int8_t *)codes, want, 4, "codes: 0.5 - 7 is -6.5, and even is -6");
    reference()->dequantize(&(struct qp_grouped){&format, 1, 4, 4, &scale, &zero}, codes, back);
    EXPECT_SAME_FLOATS(back, ((float[]){-1, 2, 1, 14}), 4, "values");
}

Test(quantize, the_scale_of_zeros_is_the_epsilon_of_its_dtype)
{
    static const struct {
        enum qp_dtype dtype;
        float epsilon;
    } cases[] = {{QP_BF16, 0x1p-7f}, {QP_F16, 0x1p-10f}, {QP_F32, 0x1p-23f}};
    float w[4] = {0, -0.0f, NAN, 0}, scale;

    for (int i = 0; i < COUNT(cases); i++) {
        struct qp_number_format format = {.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = cases[i].dtype};
        reference()->qparams(&format, 1, 4, 4, w, &scale, NULL);
        cr_assert_float_eq(scale, cases[i].epsilon, 0);
    }
}

Test(quantize, fp8_saturates_and_keeps_nan)
{
    const struct qp_number_format format = {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32};
    const float w[] = {INFINITY, -INFINITY, 1e30f, 464, -448, NAN, 17, 19, 0x1p-10f, 0x1.8p-9f}, scale = 1;
    const uint8_t want[] = {0x7e, 0xfe, 0x7e, 0x7e, 0xfe, 0x7f, 0x58, 0x5a, 0x00, 0x02};
    uint8_t codes[10];

    EACH_RUN(run)
    {
        run.k->quantize(&(struct qp_grouped){&format, 1, 10, 10, &scale, NULL}, w, codes);
        EXPECT_SAME_BYTES(codes, want, 10, "%s", run.name);
    }
}

Test(format, limits)
{
    static const struct {
        struct qp_number_format format;
        float min, max;
    } cases[] = {{{.codes = QP_I8, .bits = 8, .symmetric = true, .scale_dtype = QP_F32}, -128, 127},
                 {{.codes = QP_I8, .bits = 4, .symmetric = false, .scale_dtype = QP_F32}, -8, 7},
                 {{.codes = QP_I8, .bits = 2, .symmetric = false, .scale_dtype = QP_F32}, -2, 1},
                 {{.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32}, -448, 448},
                 {{.codes = QP_F8_E5M2, .bits = 8, .symmetric = true, .scale_dtype = QP_F32}, -57344, 57344},
                 {{.codes = QP_F6_E2M3, .bits = 6, .symmetric = true, .scale_dtype = QP_F8_E8M0}, -7.5f, 7.5f},
                 {{.codes = QP_F6_E3M2, .bits = 6, .symmetric = true, .scale_dtype = QP_F8_E8M0}, -28, 28},
                 {{.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E8M0}, -6, 6}};

    for (int i = 0; i < COUNT(cases); i++) {
        cr_assert_float_eq(qp_format_min(&cases[i].format), cases[i].min, 0);
        cr_assert_float_eq(qp_format_max(&cases[i].format), cases[i].max, 0);
    }
}
