#include "kernels/candidates.h"
#include "tests/kernel/formats.h"
#include "tests/kernel/harness.h"

static const struct {
    int64_t rows, cols, group;
} shapes[] = {{0, 8, 8},    {1, 1, 1},     {1, 1, 0},      {3, 0, 1},    {3, 7, 7},   {2, 5, 9},
              {4, 128, 16}, {3, 200, 128}, {2, 1000, 400}, {9, 100, 30}, {17, 83, 0}, {40, 96, 32}};

/* Measures: the bits say which parts a search has. */
enum { WEIGHTED = 1, POWERED = 2, QUADRATIC = 4, SWEPT = 8, MODES = 16 };

struct sample {
    struct qp_scale_search s;
    float *w, *importance, *hessian;
};

/* H = XᵀX of a few random rows, so that it is symmetric and positive semidefinite. */
static float *random_hessian(int64_t cols, uint64_t seed)
{
    float *x = random_floats(cols * 8, 1, seed), *h = fresh(cols * cols, sizeof *h);

    for (int64_t i = 0; i < cols; i++)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t k = 0; k < 8; k++)
                h[i * cols + j] += x[k * cols + i] * x[k * cols + j];
    free(x);
    return h;
}

static struct sample make(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group, int mode,
                          uint64_t seed)
{
    struct sample t = {.w = random_floats(rows * cols, 0.05f, seed)};

    t.importance = random_floats(cols, 1, seed + 1);
    for (int64_t j = 0; j < cols; j++)
        t.importance[j] = j % 13 == 5 ? 0 : fabsf(t.importance[j]);
    t.hessian = random_hessian(cols, seed + 2);
    t.s = (struct qp_scale_search){.format = format,
                                   .rows = rows,
                                   .cols = cols,
                                   .group = group,
                                   .w = t.w,
                                   .importance = mode & WEIGHTED ? t.importance : NULL,
                                   .hessian = mode & QUADRATIC ? t.hessian : NULL,
                                   .norm = mode & POWERED ? 2.4 : 2,
                                   .first = 1.1f,
                                   .last = 0.4f,
                                   .steps = 12,
                                   .sweep = mode & SWEPT};
    return t;
}

static void release(struct sample *t)
{
    free(t->w);
    free(t->importance);
    free(t->hessian);
}

struct chosen {
    float *scale;
    int8_t *zero;
};

static struct chosen search(const struct qp_kernels *k, struct qp_scale_search s)
{
    int64_t scales = qp_scale_count(s.rows, s.cols, s.group);
    struct chosen c = {fresh(scales, sizeof(float)), s.format->symmetric ? NULL : fresh(scales, 1)};

    s.scale = c.scale;
    s.zero = c.zero;
    k->scale_search(&s);
    return c;
}

static void drop(struct chosen *c)
{
    free(c->scale);
    free(c->zero);
}

static void compare(const struct qp_scale_search *s, const char *label)
{
    int64_t scales = qp_scale_count(s->rows, s->cols, s->group);
    struct chosen want = search(reference(), *s);

    EACH_RUN(run)
    {
        struct chosen got = search(run.k, *s);
        EXPECT_SAME_FLOATS(got.scale, want.scale, scales, "%s, %s: scale", run.name, label);
        if (want.zero != NULL)
            EXPECT_SAME_BYTES(got.zero, want.zero, scales, "%s, %s: zero", run.name, label);
        drop(&got);
    }
    drop(&want);
}

static void compare_all(int mode)
{
    char label[128];

    for (int g = 0; g < COUNT(formats); g++)
        for (int i = 0; i < COUNT(shapes); i++) {
            if (mode & QUADRATIC && shapes[i].group == 0)
                continue; /* not in the contract */
            struct sample t = make(&formats[g], shapes[i].rows, shapes[i].cols, shapes[i].group, mode, (uint64_t)i + 1);
            snprintf(label, sizeof label, "format %d, shape %d, mode %d", g, i, mode);
            compare(&t.s, label);
            if (i % 2 == 1) { /* rows with NaN, infinities and extremes, and rows of zeros */
                sprinkle(shapes[i].rows * shapes[i].cols, t.w, g, 7);
                if (shapes[i].rows > 2)
                    memset(t.w, 0, (size_t)shapes[i].cols * sizeof *t.w);
                strcat(label, ", edges");
                compare(&t.s, label);
            }
            release(&t);
        }
}

Test(scale_search, squares_are_exact_on_every_backend)
{
    compare_all(0);
    compare_all(WEIGHTED);
}

Test(scale_search, powers_are_exact_on_every_backend)
{
    compare_all(POWERED);
    compare_all(POWERED | WEIGHTED);
}

Test(scale_search, quadratic_forms_are_exact_on_every_backend)
{
    compare_all(QUADRATIC);
}

Test(scale_search, sweeps_are_exact_on_every_backend)
{
    compare_all(SWEPT);
    compare_all(SWEPT | QUADRATIC);
}

/* ---- against brute force in double ---- */

/* Error of row r, columns [first, first + count), with one candidate. */
static double error_in_double(const struct qp_scale_search *s, int64_t r, int64_t first, int64_t count, float scale,
                              int8_t zero)
{
    const float *w = s->w + r * s->cols + first;
    uint8_t *codes = fresh(count, 1);
    float *back = fresh(count, sizeof *back);
    double error = 0;

    reference()->quantize(&(struct qp_grouped){s->format, 1, count, count, &scale, &zero}, w, codes);
    reference()->dequantize(&(struct qp_grouped){s->format, 1, count, count, &scale, &zero}, codes, back);
    for (int64_t i = 0; i < count; i++) {
        double d = (double)back[i] - (double)w[i];
        for (int64_t j = 0; j < count && s->hessian != NULL; j++)
            error += d * (double)s->hessian[(first + i) * s->cols + first + j] * ((double)back[j] - (double)w[j]);
        if (s->hessian == NULL)
            error += (s->importance == NULL ? 1 : (double)s->importance[first + i]) * pow(fabs(d), s->norm);
    }
    free(codes);
    free(back);
    return error;
}

/* The least error of all candidates, the first of them that of the range. */
static double least_in_double(const struct qp_scale_search *s, int64_t r, int64_t first, int64_t count, double *ranged)
{
    const float *w = s->w + r * s->cols + first;
    float ends[2] = {0, 0}, scale;
    int8_t zero = 0;
    double least = INFINITY;

    for (int64_t i = 0; i < count; i++) {
        ends[0] = fminf(ends[0], w[i]);
        ends[1] = fmaxf(ends[1], w[i]);
    }
    for (int k = -1; k < s->steps; k++) {
        float p = k < 0 ? 1 : s->first + (float)k * (s->last - s->first) / (float)(s->steps - 1);
        reference()->qparams(s->format, 1, 2, 2, (float[]){p * ends[0], p * ends[1]}, &scale, &zero);
        double error = error_in_double(s, r, first, count, scale, s->format->symmetric ? 0 : zero);
        *ranged = k < 0 ? error : *ranged;
        least = fmin(error, least);
    }
    return least;
}

static void expect_best(const struct qp_scale_search *s, const struct chosen *c, const char *label)
{
    int64_t groups = qp_groups(s->cols, s->group);

    for (int64_t r = 0; r < s->rows; r++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t first = g * s->group, count = s->cols - first < s->group ? s->cols - first : s->group;
            double ranged = 0, least = least_in_double(s, r, first, count, &ranged);
            double got = error_in_double(s, r, first, count, c->scale[r * groups + g],
                                         c->zero == NULL ? 0 : c->zero[r * groups + g]);
            cr_assert_leq(got, least + 2e-5 * ranged, "%s: row %lld, group %lld has error %g, not %g", label,
                          (long long)r, (long long)g, got, least);
            cr_assert_leq(got, ranged * (1 + 2e-5), "%s: worse than by the range", label);
        }
}

Test(scale_search, finds_what_brute_force_finds)
{
    char label[64];

    for (int g = 0; g < COUNT(formats); g++)
        for (int mode = 0; mode < SWEPT; mode++) {
            struct sample t = make(&formats[g], 4, 50, 16, mode, (uint64_t)(g + mode));
            struct chosen c = search(reference(), t.s);
            snprintf(label, sizeof label, "format %d, mode %d", g, mode);
            expect_best(&t.s, &c, label);
            drop(&c);
            release(&t);
        }
}

/* Groups that NVFP4 holds exactly with one of its scales, but not with that of their range: their largest element is
 * one of 4 or 3. Found by a sweep alone. */
Test(scale_search, a_sweep_tries_every_scale_of_e4m3)
{
    const struct qp_number_format format = {QP_F4_E2M1, 4, true, false, QP_F8_E4M3, QP_SCALE_FLOOR, 64};
    float w[126 * 16], scale[126];
    uint8_t code;

    for (int c = 1; c <= 126; c++) {
        float exact;
        code = (uint8_t)c;
        reference()->to_f32(QP_F8_E4M3, 1, &code, &exact);
        for (int j = 0; j < 16; j++)
            w[(c - 1) * 16 + j] = (float[]){0.5f, -1, 1.5f, 2, -3, 3, 0, c % 2 == 0 ? 4 : -3}[j % 8] * exact / 64;
    }
    EACH_RUN(run)
    for (int up = 0; up < 2; up++) {
        struct qp_scale_search s = {
            .format = &format, .rows = 126, .cols = 16, .group = 16, .w = w, .norm = 2, .steps = 1, .scale = scale};
        s.first = up ? 0 : 1e9f; /* the least code, and the largest */
        s.last = up ? 1e9f : 0;
        s.sweep = true;
        run.k->scale_search(&s);
        for (int r = 0; r < 126; r++) {
            double error = error_in_double(&s, r, 0, 16, scale[r], 0);
            cr_assert_eq(error, 0, "%s: code %d has error %g", run.name, r + 1, error);
        }
    }
}

/* Both have exponent 0 by the floor rule, which clips them at 6. For the first the next exponent is better. */
Test(scale_search, a_sweep_tries_the_neighbouring_exponents)
{
    const struct qp_number_format format = {QP_F4_E2M1, 4, true, false, QP_F8_E8M0, QP_SCALE_FLOOR, 0};
    const float w[2][4] = {{7.9f, -7.6f, 4, -2}, {6.5f, 0.5f, 1.5f, -0.5f}};
    float scale[2];

    EACH_RUN(run)
    {
        run.k->scale_search(&(struct qp_scale_search){.format = &format,
                                                      .rows = 2,
                                                      .cols = 4,
                                                      .group = 4,
                                                      .w = w[0],
                                                      .norm = 2,
                                                      .first = 2,
                                                      .last = 0.5f,
                                                      .sweep = true,
                                                      .scale = scale});
        EXPECT_SAME_FLOATS(scale, ((float[]){2, 1}), 2, "%s", run.name);
    }
}

Test(scale_search, with_one_step_is_the_range)
{
    for (int g = 0; g < COUNT(formats); g++) {
        struct sample t = make(&formats[g], 5, 70, 32, WEIGHTED, 3);
        float scale[15];
        int8_t zero[15];
        t.s.steps = 1;
        reference()->qparams(&formats[g], 5, 70, 32, t.w, scale, zero);
        EACH_RUN(run)
        {
            struct chosen c = search(run.k, t.s);
            EXPECT_SAME_FLOATS(c.scale, scale, 15, "%s, format %d", run.name, g);
            if (c.zero != NULL)
                EXPECT_SAME_BYTES(c.zero, zero, 15, "%s, format %d", run.name, g);
            drop(&c);
        }
        release(&t);
    }
}

/* An outlier of no importance is clipped, one that matters is kept. */
Test(scale_search, importance_decides_what_is_clipped)
{
    const struct qp_number_format format = {
        .codes = QP_I8, .bits = 4, .symmetric = true, .narrow = true, .scale_dtype = QP_F32};
    const float w[8] = {1, -2, 3, 4, -5, 6, 7, 14}, light[8] = {1, 1, 1, 1, 1, 1, 1, 0}, heavy[8] = {[7] = 1};
    struct qp_scale_search s = {
        .format = &format, .rows = 1, .cols = 8, .group = 8, .w = w, .norm = 2, .first = 1, .last = 0.5f, .steps = 11};
    float scale;

    s.scale = &scale;
    EACH_RUN(run)
    {
        s.importance = light;
        run.k->scale_search(&s);
        cr_assert_float_eq(scale, 1, 1e-6, "%s: %g", run.name, (double)scale);
        s.importance = heavy;
        run.k->scale_search(&s);
        cr_assert_float_eq(scale, 2, 0, "%s: %g", run.name, (double)scale);
    }
}

Test(scale_search, powers_are_within_their_bound)
{
    static const float powers[] = {0.5f, 1, 2.4f, 3, 3.5f, 8};
    uint64_t seed = 8;

    for (int i = 0; i < 200000; i++) {
        float x = exp2f(30 * next_normal(&seed)), power = powers[i % COUNT(powers)];
        double want = pow((double)x, (double)power);
        if (want > 0x1p-126 && want < 0x1.f8p127)
            cr_assert_float_eq((double)qp_power(x, power), want, 0x1p-17 * want, "%a^%g", (double)x, (double)power);
    }
    cr_assert_eq(qp_power(0, 2.4f), 0);
    cr_assert_eq(qp_power(0x1p-140f, 0.5f), 0);
    cr_assert_eq(qp_power(INFINITY, 2.4f), INFINITY);
    cr_assert_eq(qp_power(1e30f, 8), INFINITY);
    cr_assert(isnan(qp_power(NAN, 2.4f)));
}
