#include "tests/kernel/formats.h"
#include "tests/kernel/harness.h"

/* A block with scales from the weights themselves, sums from columns before it, and r upper triangular with
 * ones near the diagonal. */
struct sample {
    struct qp_gptq_block b;
    struct qp_number_format format;
    float *w, *s, *r, *scale;
    int8_t *zero;
    int32_t *group_of;
};

static struct sample make(struct qp_number_format format, int64_t rows, int64_t count, int64_t group, bool identity,
                          uint64_t seed)
{
    struct sample s = {.format = format};
    int64_t groups = count == 0 ? 1 : qp_groups(count, group);

    s.w = random_floats(rows * count, 0.05f, seed);
    s.s = random_floats(rows * count, identity ? 0 : 0.05f, seed + 2);
    s.r = random_floats(count * (count + 3), identity ? 0 : 0.2f, seed + 1);
    s.scale = fresh(rows * groups, sizeof *s.scale);
    s.zero = format.symmetric ? NULL : fresh(rows * groups, 1);
    s.group_of = fresh(count, sizeof *s.group_of);
    for (int64_t i = 0; i < count; i++) {
        s.group_of[i] = (int32_t)(i / group);
        s.r[i * (count + 3) + i] = identity ? 1 : 0.5f + 0.01f * (float)(i % 50);
    }
    reference()->qparams(&format, rows, count, group, s.w, s.scale, s.zero);
    s.b = (struct qp_gptq_block){.rows = rows,
                                 .count = count,
                                 .groups = groups,
                                 .w = s.w,
                                 .w_stride = count,
                                 .s_stride = count + 2,
                                 .r = s.r,
                                 .r_stride = count + 3,
                                 .scale = s.scale,
                                 .zero = s.zero,
                                 .group_of = s.group_of,
                                 .codes_stride = count + 1,
                                 .error_stride = count};
    return s;
}

/* Runs a copy of the sample; outputs are allocated here, to their exact size. */
static struct qp_gptq_block run_on(const struct qp_kernels *k, const struct sample *s)
{
    struct qp_gptq_block b = s->b;

    b.format = &s->format;
    b.s = fresh(b.rows * b.s_stride, sizeof(float));
    b.codes = fresh(b.rows * b.codes_stride, 1);
    b.error = fresh(b.rows * b.count, sizeof(float));
    for (int64_t r = 0; r < b.rows && b.count > 0; r++)
        memcpy(b.s + r * b.s_stride, s->s + r * b.count, (size_t)b.count * sizeof(float));
    k->gptq_block(&b);
    return b;
}

static void release_block(struct qp_gptq_block *b)
{
    free(b->s);
    free(b->codes);
    free(b->error);
}

static void release(struct sample *s)
{
    free(s->w);
    free(s->s);
    free(s->r);
    free(s->scale);
    free(s->zero);
    free(s->group_of);
}

static void compare(struct qp_number_format format, int64_t rows, int64_t count, int64_t group, bool edges)
{
    struct sample s = make(format, rows, count, group, false, 7);
    if (edges)
        sprinkle(rows * count, s.w, 3, 41);
    struct qp_gptq_block want = run_on(reference(), &s);

    EACH_RUN(run)
    {
        struct qp_gptq_block got = run_on(run.k, &s);
        char label[128];
        snprintf(label, sizeof label, "%s, %s %d bits, %lld x %lld by %lld", run.name, qp_dtype_name(format.codes),
                 format.bits, (long long)rows, (long long)count, (long long)group);
        EXPECT_SAME_FLOATS(got.s, want.s, rows * got.s_stride, "%s: deviations", label);
        EXPECT_SAME_BYTES(got.codes, want.codes, rows * got.codes_stride, "%s: codes", label);
        EXPECT_SAME_FLOATS(got.error, want.error, rows * count, "%s: errors", label);
        release_block(&got);
    }
    release_block(&want);
    release(&s);
}

Test(gptq, every_backend_gives_the_reference_s_bits)
{
    static const struct {
        int64_t rows, count, group;
    } shapes[] = {{0, 8, 8},  {1, 1, 1},     {5, 0, 1},      {3, 7, 2},     {16, 8, 8},
                  {17, 9, 4}, {40, 128, 32}, {31, 127, 128}, {100, 100, 30}};

    for (int g = 0; g < COUNT(formats); g++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (int edges = 0; edges < 2; edges++)
                compare(formats[g], shapes[s].rows, shapes[s].count, shapes[s].group, edges);
}

Test(gptq, with_an_identity_is_rounding_to_nearest)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = false, .scale_dtype = QP_BF16};
    struct sample s = make(format, 37, 96, 32, true, 11);
    uint8_t *codes = fresh(37 * 96, 1);

    reference()->quantize(&(struct qp_grouped){&format, 37, 96, 32, s.scale, s.zero}, s.w, codes);
    EACH_RUN(run)
    {
        struct qp_gptq_block b = run_on(run.k, &s);
        for (int r = 0; r < 37; r++) {
            EXPECT_SAME_BYTES(b.codes + r * b.codes_stride, codes + r * 96, 96, "%s: row %d", run.name, r);
            EXPECT_SAME_FLOATS(b.error + r * 96, b.s + r * b.s_stride, 96, "%s: row %d", run.name, r);
        }
        release_block(&b);
    }
    free(codes);
    release(&s);
}

/* Two columns by hand: w = (0.75, 1), scale 0.5, and 1 from columns before. v = 0.75 + 1 / 2 = 1.25 is a tie, so code 2
 * and q = 1: e = (1.25 - 1) 2 = 0.5, d = -0.25. The second sum becomes 2 - 0.25 * 4 = 1, v = 1 + 1 / 1 = 2, its code 4,
 * e = 0 and d = -1. */
Test(gptq, two_columns_by_hand)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F32};
    float w[] = {0.75f, 1}, r[] = {2, 4, 0, 1}, scale = 0.5f;
    int32_t group_of[] = {0, 0};

    EACH_RUN(run)
    {
        float s[] = {1, 2}, error[2];
        uint8_t codes[2];
        struct qp_gptq_block b = {&format, 1, 2, 1, w, 2, s, 2, r, 2, &scale, NULL, group_of, codes, 2, error, 2};
        run.k->gptq_block(&b);
        EXPECT_SAME_BYTES(codes, ((uint8_t[]){2, 4}), 2, "%s", run.name);
        EXPECT_SAME_FLOATS(error, ((float[]){0.5f, 0}), 2, "%s", run.name);
        EXPECT_SAME_FLOATS(s, ((float[]){-0.25f, -1}), 2, "%s", run.name);
        float again[] = {1, 2};
        b.s = again;
        b.error = NULL;
        run.k->gptq_block(&b);
        EXPECT_SAME_FLOATS(again, s, 2, "%s, without errors", run.name);
    }
}

Test(gptq, takes_groups_in_any_order)
{
    struct sample s =
        make((struct qp_number_format){.codes = QP_I8, .bits = 4, .symmetric = false, .scale_dtype = QP_F32}, 20, 64,
             16, false, 5);
    for (int i = 0; i < 64; i++)
        s.group_of[i] = i * 7 % 4;
    struct qp_gptq_block want = run_on(reference(), &s);

    EACH_RUN(run)
    {
        struct qp_gptq_block got = run_on(run.k, &s);
        EXPECT_SAME_BYTES(got.codes, want.codes, 20 * got.codes_stride, "%s", run.name);
        release_block(&got);
    }
    release_block(&want);
    release(&s);
}
