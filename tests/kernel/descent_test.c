/* Coordinate descent against the loss itself, computed in double, and against trying everything. */
#include "tests/kernel/harness.h"
#include "kernels/rounding.h"

static const struct qp_number_format formats[] = {
    {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16},
    {.codes = QP_I8, .bits = 3, .symmetric = false, .scale_dtype = QP_F32},
    {.codes = QP_I8, .bits = 2, .symmetric = true, .scale_dtype = QP_F16},
    {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_F32},
    {.codes = QP_F8_E5M2, .bits = 8, .symmetric = true, .scale_dtype = QP_BF16},
    {.codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F32},
};

struct problem {
    struct qp_descent p;
    float *w, *h, *linear_term, *scale;
    int8_t *zero;
    uint8_t *codes; /* of rounding to nearest */
};

/* H = XᵀX of correlated columns; with fewer tokens than columns it is singular. */
static float *make_hessian(int64_t cols, int64_t tokens, uint64_t seed)
{
    float *x = random_floats(tokens * cols, 1, seed), *common = random_floats(tokens, 1, seed + 1);
    float *h = fresh(cols * cols, sizeof *h);

    for (int64_t i = 0; i < tokens * cols; i++)
        x[i] = (x[i] + 2 * common[i / cols]) * (i % cols % 3 == 0 ? 2.0f : 0.5f);
    reference()->hessian(tokens, cols, x, h);
    reference()->mirror(cols, h);
    free(x);
    free(common);
    return h;
}

static struct problem make(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group,
                           bool asymmetric, uint64_t seed)
{
    int64_t scales = qp_scale_count(rows, cols, group);
    struct problem s = {.w = random_floats(rows * cols, 0.05f, seed),
                        .h = make_hessian(cols, 2 * cols, seed + 1),
                        .linear_term = asymmetric ? random_floats(rows * cols, 0.1f, seed + 3) : NULL,
                        .scale = fresh(scales, sizeof(float)),
                        .zero = format->symmetric ? NULL : fresh(scales, 1),
                        .codes = fresh(rows * cols, 1)};
    reference()->qparams(format, rows, cols, group, s.w, s.scale, s.zero);
    reference()->quantize(&(struct qp_grouped){format, rows, cols, group, s.scale, s.zero}, s.w, s.codes);
    s.p = (struct qp_descent){
        .format = format, .rows = rows, .cols = cols, .group = group, .h = s.h, .scale = s.scale, .zero = s.zero};
    return s;
}

static void release(struct problem *s)
{
    free(s->w);
    free(s->h);
    free(s->linear_term);
    free(s->scale);
    free(s->zero);
    free(s->codes);
}

static double value(const struct problem *s, int64_t r, int64_t k, uint8_t code)
{
    int64_t at = s->p.group == 0 ? 0 : r * qp_groups(s->p.cols, s->p.group) + k / s->p.group;
    return qp_value(s->p.format, code, s->scale[at], s->zero == NULL ? 0 : s->zero[at]);
}

/* H (w - q) + p of all rows, in double. */
static float *gradient(const struct problem *s, const uint8_t *codes)
{
    int64_t n = s->p.cols;
    float *g = fresh(s->p.rows * n, sizeof *g);
    for (int64_t i = 0; i < s->p.rows * n; i++) {
        double sum = s->linear_term == NULL ? 0 : s->linear_term[i];
        for (int64_t j = 0, r = i / n; j < n; j++)
            sum += (double)s->h[i % n * n + j] * (s->w[r * n + j] - value(s, r, j, codes[r * n + j]));
        g[i] = (float)sum;
    }
    return g;
}

/* New codes after `sweeps`; gain may be NULL. The gradient has to end as that of the new codes. */
static uint8_t *descend(const struct qp_kernels *k, const struct problem *s, int sweeps, double *gain, int64_t *steps)
{
    struct qp_descent p = s->p;
    p.codes = copy_of(s->codes, p.rows * p.cols, 1);
    p.gradient = gradient(s, p.codes);
    p.sweeps = sweeps;
    p.gain = gain;
    int64_t taken = k->descent(&p);
    if (steps != NULL)
        *steps = taken;
    float *after = gradient(s, p.codes), *before = gradient(s, s->codes);
    for (int64_t i = 0; i < p.rows * p.cols; i++)
        cr_assert_leq(fabs((double)p.gradient[i] - after[i]),
                      1e-4 * (fabs((double)before[i]) + sqrt((double)s->h[i % p.cols * (p.cols + 1)])),
                      "%s: element %d", k->backend, (int)i);
    free(after);
    free(before);
    free(p.gradient);
    return p.codes;
}

/* (w - q)ᵀ H (w - q) + 2 pᵀ (w - q) of one row. */
static double row_loss(const struct problem *s, int64_t r, const uint8_t *codes)
{
    int64_t n = s->p.cols;
    double *d = fresh(n, sizeof *d), loss = 0;
    for (int64_t k = 0; k < n; k++)
        d[k] = s->w[r * n + k] - value(s, r, k, codes[k]);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++)
            loss += d[i] * s->h[i * n + j] * d[j];
        loss += 2 * d[i] * (s->linear_term == NULL ? 0 : s->linear_term[r * n + i]);
    }
    free(d);
    return loss;
}

/* The rounding that a row's loss may carry: gradients are float32. */
static double slack(const struct problem *s, int64_t r)
{
    double largest = 0, scale = 0;
    for (int64_t i = 0; i < s->p.cols; i++) {
        scale = fmax(scale, fabs(s->w[r * s->p.cols + i]));
        largest = fmax(largest, s->h[i * s->p.cols + i]);
    }
    return 1e-6 * largest * scale * scale * (double)s->p.cols;
}

static void expect_no_loss(const struct qp_kernels *k, const char *name, const struct problem *s, int sweeps)
{
    double *gain = fresh(s->p.rows, sizeof *gain);
    uint8_t *codes = descend(k, s, sweeps, gain, NULL);
    for (int64_t r = 0; r < s->p.rows; r++) {
        double before = row_loss(s, r, s->codes + r * s->p.cols), after = row_loss(s, r, codes + r * s->p.cols);
        cr_assert_geq(gain[r], 0);
        cr_assert_leq(after, before + slack(s, r), "%s: row %d went from %g to %g", name, (int)r, before, after);
        cr_assert_leq(fabs(before - after - gain[r]), slack(s, r) + 1e-5 * gain[r], "%s: row %d gained %g, not %g",
                      name, (int)r, before - after, gain[r]);
    }
    free(gain);
    free(codes);
}

Test(descent, never_raises_the_loss_and_tells_what_it_gained)
{
    uint64_t state = 1;
    for (int i = 0; i < 1000; i++) {
        const struct qp_number_format *format = &formats[i % COUNT(formats)];
        int64_t rows = 1 + (int64_t)(next_random(&state) % 20), cols = 1 + (int64_t)(next_random(&state) % 24);
        int64_t group = (int64_t)(next_random(&state) % (uint64_t)(cols + 1));
        struct problem s = make(format, rows, cols, group, i % 2 == 1, next_random(&state));
        expect_no_loss(reference(), "ref", &s, 1 + i % 4);
        EACH_RUN(run)
        expect_no_loss(run.k, run.name, &s, 1 + i % 4);
        release(&s);
    }
}

Test(descent, each_sweep_goes_on_from_the_last)
{
    for (int g = 0; g < COUNT(formats); g++) {
        struct problem s = make(&formats[g], 3, 40, 16, false, 5);
        double last = INFINITY;
        for (int sweeps = 0; sweeps < 5; sweeps++) {
            uint8_t *codes = descend(qp_kernels_open("cpu"), &s, sweeps, NULL, NULL);
            double loss = row_loss(&s, 0, codes);
            cr_assert_leq(loss, last + slack(&s, 0));
            if (sweeps == 0)
                EXPECT_SAME_BYTES(codes, s.codes, 3 * 40, "without sweeps");
            last = loss;
            free(codes);
        }
        release(&s);
    }
}

/* From codes of 0 nearly all change, which is more than the rows' lists of changes hold. */
Test(descent, goes_on_when_most_codes_change)
{
    struct problem s = make(&formats[0], 21, 400, 50, false, 8);
    memset(s.codes, 0, 21 * 400);
    EACH_RUN(run)
    {
        double *gain = fresh(21, sizeof *gain);
        int64_t steps;
        uint8_t *codes = descend(run.k, &s, 3, gain, &steps);
        cr_assert_gt(steps, 21 * 400 / 2, "%s: %d steps", run.name, (int)steps);
        for (int64_t r = 0; r < 21; r += 5)
            cr_assert_leq(fabs(row_loss(&s, r, s.codes + r * 400) - row_loss(&s, r, codes + r * 400) - gain[r]),
                          slack(&s, r) + 1e-5 * gain[r], "%s: row %d", run.name, (int)r);
        free(gain);
        free(codes);
    }
    release(&s);
}

/* Codes and gains are the same when nobody asks for the gradient. */
Test(descent, without_the_gradient_gives_the_same_codes)
{
    struct problem s = make(&formats[1], 40, 150, 30, false, 9);
    EACH_RUN(run)
    {
        uint8_t *want = descend(run.k, &s, 2, NULL, NULL);
        struct qp_descent p = s.p;
        p.codes = copy_of(s.codes, 40 * 150, 1);
        p.gradient = gradient(&s, p.codes);
        p.sweeps = 2;
        p.codes_only = true;
        run.k->descent(&p);
        EXPECT_SAME_BYTES(p.codes, want, 40 * 150, "%s", run.name);
        free(want);
        free(p.codes);
        free(p.gradient);
    }
    release(&s);
}

/* The least loss that one change of the row's codes reaches. */
static double best_single_change(const struct problem *s, int64_t r, const uint8_t *codes)
{
    int64_t n = s->p.cols;
    int count = 1 << s->p.format->bits;
    uint8_t *trial = copy_of(codes, n, 1);
    double best = INFINITY;
    for (int64_t k = 0; k < n; k++) {
        for (int c = 0; c < count; c++) {
            trial[k] = s->p.format->codes == QP_I8 ? (uint8_t)(c - count / 2) : (uint8_t)c;
            double loss = isfinite(value(s, r, k, trial[k])) ? row_loss(s, r, trial) : INFINITY;
            best = fmin(best, loss);
        }
        trial[k] = codes[k];
    }
    free(trial);
    return best;
}

Test(descent, when_it_has_ended_no_single_change_helps)
{
    for (int g = 0; g < COUNT(formats); g++)
        for (int asymmetric = 0; asymmetric < 2; asymmetric++) {
            struct problem s = make(&formats[g], 3, 17, 5, asymmetric, 40 + (uint64_t)g);
            EACH_RUN(run)
            {
                uint8_t *codes = descend(run.k, &s, 1000, NULL, NULL);
                for (int64_t r = 0; r < s.p.rows; r++)
                    cr_assert_geq(best_single_change(&s, r, codes + r * s.p.cols),
                                  row_loss(&s, r, codes + r * s.p.cols) - slack(&s, r), "%s: format %d", run.name, g);
                free(codes);
            }
            release(&s);
        }
}

/* Least loss over all codes of a row of four columns. */
static double optimum(const struct problem *s)
{
    int count = 1 << s->p.format->bits;
    bool integers = s->p.format->codes == QP_I8;
    double best = INFINITY;
    for (int c = 0; c < count * count * count * count; c++) {
        uint8_t codes[4];
        for (int k = 0, rest = c; k < 4; k++, rest /= count)
            codes[k] = (uint8_t)(rest % count - (integers ? count / 2 : 0));
        best = fmin(best, row_loss(s, 0, codes));
    }
    return best;
}

Test(descent, often_finds_the_best_codes_of_all_and_never_better_ones)
{
    const int tried[] = {1, 2};
    int met = 0, rounding = 0, problems = 0;
    for (int g = 0; g < COUNT(tried); g++)
        for (uint64_t seed = 0; seed < 40; seed++) {
            struct problem s = make(&formats[tried[g]], 1, 4, 2, false, 100 * seed);
            double best = optimum(&s), before = row_loss(&s, 0, s.codes);
            uint8_t *codes = descend(reference(), &s, 100, NULL, NULL);
            double loss = row_loss(&s, 0, codes);
            cr_assert_geq(loss, best * (1 - 1e-9));
            met += loss <= best + slack(&s, 0);
            rounding += before <= best + slack(&s, 0);
            problems++;
            free(codes);
            release(&s);
        }
    cr_assert_gt(met, problems / 2, "%d of %d", met, problems);
    cr_assert_gt(met, rounding, "%d by coordinate descent, %d by rounding", met, rounding);
}

/* H = [4 2; 2 2], w = (0.6, 0.6) on whole numbers, q = (1, 1): w - q = (-0.4, -0.4), g = (-2.4, -1.6). Column 0: the
 * target 1 - 0.6 = 0.4 rounds to 0, gain (-1)(-4.8 + 4) = 0.8, g = (1.6, 0.4). Column 1: 1 + 0.2 stays. Loss before
 * 0.16 (4 + 2 + 2 + 2) = 1.6, after 0.36 * 4 - 2 * 0.24 * 2 + 0.16 * 2 = 0.8. */
Test(descent, two_columns_by_hand)
{
    const struct qp_number_format format = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_F32};
    const float h[] = {4, 2, 2, 2}, scale = 1;

    for (int i = -1; i < 0 || nth_run(i).k != NULL; i++) {
        const struct qp_kernels *k = i < 0 ? reference() : nth_run(i).k;
        uint8_t codes[] = {1, 1};
        float g[] = {-2.4f, -1.6f};
        double gain;
        struct qp_descent p = {&format, 1, 2, 0, h, &scale, NULL, codes, g, 9, false, &gain};
        cr_assert_eq(k->descent(&p), 1);
        cr_assert_eq(codes[0], 0);
        cr_assert_eq(codes[1], 1);
        cr_assert_float_eq(gain, 0.8, 1e-6);
        cr_assert_float_eq(g[0], 1.6, 1e-6);
        cr_assert_float_eq(g[1], 0.4, 1e-6);
    }
}

Test(descent, columns_that_were_never_seen_are_left_alone)
{
    struct problem s = make(&formats[0], 20, 70, 35, true, 77);
    for (int64_t i = 0; i < 70; i++)
        s.h[3 * 70 + i] = s.h[i * 70 + 3] = 0;
    EACH_RUN(run)
    {
        uint8_t *codes = descend(run.k, &s, 3, NULL, NULL);
        for (int64_t r = 0; r < 20; r++)
            cr_assert_eq(codes[r * 70 + 3], s.codes[r * 70 + 3]);
        free(codes);
    }
    release(&s);
}

static double total(const struct problem *s, const uint8_t *codes)
{
    double sum = 0;
    for (int64_t r = 0; r < s->p.rows; r++)
        sum += row_loss(s, r, codes + r * s->p.cols);
    return sum;
}

static void compare(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group)
{
    struct problem s = make(format, rows, cols, group, false, 11);
    uint8_t *codes = descend(reference(), &s, 3, NULL, NULL), *first = NULL;
    double before = total(&s, s.codes), want = total(&s, codes);
    const struct qp_kernels *last = NULL;

    EACH_RUN(run)
    {
        uint8_t *got = descend(run.k, &s, 3, NULL, NULL);
        cr_assert_leq(fabs(total(&s, got) - want), 0.01 * before, "%s, %dx%d: loss %g, the reference's %g, before %g",
                      run.name, (int)rows, (int)cols, total(&s, got), want, before);
        if (last == run.k)
            EXPECT_SAME_BYTES(got, first, rows * cols, "%s and with one thread", run.name);
        last = run.k;
        free(first);
        first = got;
    }
    free(first);
    free(codes);
    release(&s);
}

Test(descent, every_backend_ends_where_the_reference_does)
{
    for (int g = 0; g < COUNT(formats); g++) {
        compare(&formats[g], 0, 5, 2);
        compare(&formats[g], 17, 64, 16);
        compare(&formats[g], 33, 131, 131);
        compare(&formats[g], 7, 200, 0);
    }
    compare(&formats[0], 1030, 65, 32);
    compare(&formats[5], 600, 70, 16);
}
