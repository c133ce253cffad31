#include "tests/kernel/formats.h"
#include "tests/kernel/harness.h"

static const struct {
    int64_t rows, cols, group;
} shapes[] = {{0, 8, 8},     {1, 1, 1},   {3, 7, 7},        {5, 33, 8},      {4, 128, 128}, {2, 576, 64},
              {3, 576, 576}, {9, 96, 32}, {40, 1000, 1000}, {33, 1030, 256}, {70, 576, 128}};

static const enum qp_dtype dtypes[] = {QP_BF16, QP_F16, QP_F32};

/* 0: plain; 1: at rounding boundaries of whole scales; 2: with NaN and infinities; 3: zeros; 4: tiny; 5: one sign. */
enum { KINDS = 6 };

static void *stored(enum qp_dtype dtype, int64_t count, int kind, uint64_t seed)
{
    float *w = random_floats(count, kind == 4 ? 0x1p-130f : 0.05f, seed);
    void *data = fresh(count, (size_t)qp_dtype_bits(dtype) / 8);

    for (int64_t i = 0; kind == 1 && i < count; i++)
        w[i] = (float)((int)(next_random(&seed) % 31) - 15) / 2;
    for (int64_t i = 0; kind == 5 && i < count; i++)
        w[i] = -fabsf(w[i]);
    if (kind == 2)
        sprinkle(count, w, (int)seed, 41);
    if (kind == 3)
        memset(w, 0, (size_t)count * sizeof *w);
    reference()->from_f32(dtype, count, w, data);
    free(w);
    return data;
}

/* The four operations that rtn is the sum of. */
static void step_by_step(const struct qp_rtn *job)
{
    const struct qp_kernels *k = reference();
    int64_t count = job->rows * job->cols;
    float *w = fresh(count, sizeof *w);
    uint8_t *codes = fresh(count, 1);

    k->to_f32(job->dtype, count, job->w, w);
    k->qparams(job->format, job->rows, job->cols, job->group, w, job->scale, job->zero);
    k->quantize(&(struct qp_grouped){job->format, job->rows, job->cols, job->group, job->scale, job->zero}, w, codes);
    if (job->packed)
        k->pack(job->format->bits, job->rows, job->cols, (const int8_t *)codes, job->codes);
    else if (count > 0)
        memcpy(job->codes, codes, (size_t)count);
    free(w);
    free(codes);
}

/* Fresh memory for what a job gives, with `size` for its codes. */
static struct qp_rtn with_results(struct qp_rtn job, int64_t *size)
{
    int64_t scales = job.rows * qp_groups(job.cols, job.group);
    *size = job.packed ? 4 * job.rows * qp_packed_words(job.format->bits, job.cols) : job.rows * job.cols;
    job.scale = fresh(scales, sizeof *job.scale);
    job.zero = job.format->symmetric ? NULL : fresh(scales, 1);
    job.codes = fresh(*size, 1);
    memset(job.codes, 0xa5, (size_t)*size);
    return job;
}

static void release(struct qp_rtn *job)
{
    free(job->scale);
    free(job->zero);
    free(job->codes);
}

static void expect_same(const struct qp_kernels *k, const char *name, const struct qp_rtn *want, int64_t size,
                        const char *what)
{
    struct qp_rtn got = with_results(*want, &size);
    int64_t scales = want->rows * qp_groups(want->cols, want->group);
    k->rtn(&got);
    EXPECT_SAME_FLOATS(got.scale, want->scale, scales, "%s: %s: scale", name, what);
    EXPECT_SAME_BYTES((uint8_t *)got.codes, (uint8_t *)want->codes, size, "%s: %s: codes", name, what);
    if (want->zero != NULL)
        EXPECT_SAME_BYTES(got.zero, want->zero, scales, "%s: %s: zero", name, what);
    release(&got);
}

static void compare(const struct qp_number_format *format, int s, enum qp_dtype dtype, int kind, bool packed)
{
    int64_t size;
    char what[128];
    struct qp_rtn want = {format, shapes[s].rows, shapes[s].cols, shapes[s].group, dtype, NULL, packed, NULL, NULL,
                          NULL};
    void *w = stored(dtype, want.rows * want.cols, kind, (uint64_t)(s + 1));

    want.w = w;
    want = with_results(want, &size);
    step_by_step(&want);
    snprintf(what, sizeof what, "%s of %d bits from %s, shape %d, data %d%s", qp_dtype_name(format->codes),
             format->bits, qp_dtype_name(dtype), s, kind, packed ? ", packed" : "");
    expect_same(reference(), "reference", &want, size, what);
    EACH_RUN(run)
    expect_same(run.k, run.name, &want, size, what);
    release(&want);
    free(w);
}

/* Large shapes are there for how rows and groups are divided among threads, which no value changes: they see two kinds
 * of data, small ones all. */
Test(rtn, gives_the_bits_of_its_four_steps)
{
    for (int g = 0; g < COUNT(formats); g++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int d = 0; d < COUNT(dtypes); d++)
                for (int kind = 0; kind < KINDS; kind++)
                    for (int packed = 0; packed <= (formats[g].codes == QP_I8); packed++)
                        if (kind == 0 || kind == 2 || shapes[s].rows * shapes[s].cols < 10000)
                            compare(&formats[g], s, dtypes[d], kind, packed);
}

/* Every width of integers, both kinds of zero point, both dtypes that quotients are taken from registers with. */
Test(rtn, every_width)
{
    for (int bits = 2; bits <= 8; bits++)
        for (int variant = 0; variant < 6; variant++) {
            struct qp_number_format format = {
                QP_I8, bits, variant % 3 > 0, variant % 3 == 2, variant < 3 ? QP_BF16 : QP_F16, 0, 0};
            for (int kind = 0; kind < KINDS; kind++)
                for (int packed = 0; packed < 2; packed++) {
                    compare(&format, 5, QP_BF16, kind, packed);
                    compare(&format, 7, QP_BF16, kind, packed);
                }
        }
}

/* All quotients there are: each BF16 significand over each scale's, around every boundary between two codes. */
Test(rtn, every_significand_over_every_scale)
{
    enum { COLS = 128 * 4 };
    for (int bits = 4; bits <= 8; bits += 4) {
        const struct qp_number_format format = {QP_I8, bits, true, false, QP_BF16, 0, 0};
        uint16_t *w = fresh(128 * COLS, 2);
        int64_t size;
        for (int most = 0; most < 128; most++)
            for (int i = 0; i < COLS; i++) /* the first of a row is its largest, and makes the scale */
                w[most * COLS + i] =
                    (uint16_t)(i == 0 ? 0x4080 + most : (i % 2 << 15) + 0x4080 + most - i * (bits == 4 ? 1 : 2));
        struct qp_rtn want = {&format, 128, COLS, COLS, QP_BF16, w, true, NULL, NULL, NULL};
        want = with_results(want, &size);
        step_by_step(&want);
        EACH_RUN(run)
        expect_same(run.k, run.name, &want, size, "all quotients");
        release(&want);
        free(w);
    }
}
