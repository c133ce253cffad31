/* The parts of quantize one by one, against explicit tokens and a textbook solver. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/solvers/gptq.h"
#include "libstage/solvers/quality.h"
#include "stages/quantize/hqq.h"
#include "stages/quantize/descent.h"
#include "stages/quantize/refit.h"
#include "stages/quantize/scales.h"
#include "tests/support/tiny.h"

enum { MOST_ROWS = 12, MOST_COLS = 32, MOST_TOKENS = 3 * MOST_COLS };

static const struct qp_number_format int4 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};
static const struct qp_number_format int3_asymmetric = {.codes = QP_I8, .bits = 3, .scale_dtype = QP_F16};
static const struct qp_number_format fp8 = {.codes = QP_F8_E4M3, .bits = 8, .symmetric = true, .scale_dtype = QP_BF16};
static const struct qp_number_format mxfp4 = {
    .codes = QP_F4_E2M1, .bits = 4, .symmetric = true, .scale_dtype = QP_F8_E8M0, .rule = QP_SCALE_EVEN};

/* One linear W and the tokens that it saw: x after quantized blocks, x0 of the original network. */
struct problem {
    struct qp_block block;
    struct qp_quant_spec spec;
    struct qp_site_work work;
    struct qp_member *m;
    int64_t rows, cols, tokens;
    float w[MOST_ROWS * MOST_COLS], x[MOST_TOKENS * MOST_COLS], x0[MOST_TOKENS * MOST_COLS];
    float h[MOST_COLS * MOST_COLS], asymmetry[MOST_COLS * MOST_COLS], scale[MOST_ROWS * MOST_COLS];
    float held_asymmetry[MOST_COLS * MOST_COLS],
        held_hessian[MOST_COLS * MOST_COLS]; /* those of all tokens, if not said */
    int8_t zero[MOST_ROWS * MOST_COLS];
    uint8_t codes[MOST_ROWS * MOST_COLS];
};

static void fill_statistics(struct problem *p)
{
    int64_t n = p->cols;
    const struct qp_kernels *k = p->block.kernels;
    memset(p->h, 0, sizeof p->h);
    memset(p->asymmetry, 0, sizeof p->asymmetry);
    k->hessian(p->tokens, n, p->x, p->h);
    k->mirror(n, p->h);
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                p->asymmetry[i * n + j] += (p->x0[t * n + i] - p->x[t * n + i]) * p->x[t * n + j];
    memcpy(p->held_asymmetry, p->asymmetry, sizeof p->asymmetry);
    memcpy(p->held_hessian, p->h, sizeof p->h);
}

/* Static storage; group as in kernels/quant.h. */
static struct problem *make(const struct qp_number_format *format, int64_t rows, int64_t cols, int64_t group,
                            uint64_t seed)
{
    static struct problem p;
    p = (struct problem){.rows = rows, .cols = cols, .tokens = 3 * cols};
    p.block.kernels = qp_kernels_open("cpu");
    p.spec = (struct qp_quant_spec){
        .enabled = true, .format = *format, .granularity = group == 0 ? QP_PER_TENSOR : QP_PER_GROUP, .group = group};
    tiny_random(seed, rows * cols, 0.05f, p.w);
    tiny_random(seed + 1, p.tokens * cols, 1.0f, p.x);
    tiny_random(seed + 2, p.tokens * cols, 0.1f, p.x0);
    for (int64_t i = 0; i < p.tokens * cols; i++) {
        p.x[i] = (p.x[i] + 2.0f * p.x[i / cols * cols]) * (i % cols % 3 == 0 ? 2.0f : 0.5f);
        p.x0[i] += p.x[i];
    }
    fill_statistics(&p);
    p.m = &p.work.members[0];
    p.work.block = &p.block;
    p.work.in = cols;
    p.work.count = 1;
    p.work.h = p.h;
    *p.m = (struct qp_member){.spec = &p.spec, .w = p.w, .h = p.h, .scale = p.scale, .zero = p.zero, .codes = p.codes};
    p.m->q = (struct qp_quantized){*format, rows, cols, group, p.codes, p.scale, format->symmetric ? NULL : p.zero,
                                   NULL,    NULL};
    p.block.kernels->qparams(format, rows, cols, group, p.w, p.scale, p.zero);
    p.block.kernels->quantize(&(struct qp_grouped){format, rows, cols, group, p.scale, p.m->q.zero}, p.w, p.codes);
    return &p;
}

static void values(const struct problem *p, float *q)
{
    const struct qp_quantized *m = &p->m->q;
    p->block.kernels->dequantize(&(struct qp_grouped){&m->format, m->rows, m->cols, m->group, m->scale, m->zero},
                                 m->codes, q);
}

/* Sum over the tokens of |W x0 - Q x|^2, in double; `own`: W x instead. */
static double explicit_loss(const struct problem *p, bool own)
{
    float q[MOST_ROWS * MOST_COLS];
    double loss = 0.0;
    values(p, q);
    for (int64_t t = 0; t < p->tokens; t++)
        for (int64_t r = 0; r < p->rows; r++) {
            double error = 0.0;
            for (int64_t i = 0; i < p->cols; i++)
                error += (double)p->w[r * p->cols + i] * (own ? p->x : p->x0)[t * p->cols + i] -
                         (double)q[r * p->cols + i] * p->x[t * p->cols + i];
            loss += error * error;
        }
    return loss;
}

static double site_loss(const struct problem *p)
{
    float q[MOST_ROWS * MOST_COLS], scratch[MOST_ROWS * MOST_COLS];
    values(p, q);
    qp_difference(p->rows * p->cols, q, p->w, q);
    return qp_site_loss(p->block.kernels, p->rows, p->cols, q, p->h, scratch);
}

static void solve(struct problem *p, enum qp_order order, qp_rescale_fn *rescale, void *context)
{
    struct qp_error err;
    struct qp_gptq *solver;
    double damping = 0.01;
    cr_assert_eq(qp_gptq_open(p->block.kernels, p->cols, p->h,
                              &(struct qp_gptq_columns){.block = 5, .order = order, .group = p->m->q.group}, &damping,
                              &solver, &err),
                 0);
    cr_assert_eq(qp_gptq_solve(solver, &p->m->q, p->w, p->codes, &(struct qp_rescale){rescale, context}, NULL, &err), 0,
                 "%s", err.message);
    qp_gptq_close(solver);
}

static struct qp_descent_result descent(struct problem *p, int64_t sweeps, double asymmetric, bool refit)
{
    struct qp_error err;
    struct qp_descent_result out;
    const struct qp_quantize_options o = {
        .method = "gptq", .descent = sweeps, .asymmetric = asymmetric, .refit = refit};
    p->work.asymmetry = asymmetric > 0.0 ? p->asymmetry : NULL;
    p->work.held_asymmetry = p->held_asymmetry;
    p->work.held_hessian = p->held_hessian;
    cr_assert_eq(qp_descend_member(&o, &p->work, p->m, NULL, &out, &err), 0, "%s", err.message);
    return out;
}

Test(solver, the_site_loss_is_the_error_of_the_outputs)
{
    const struct problem *p = make(&int4, 12, 32, 16, 1);
    double expected = explicit_loss(p, true);
    cr_expect_float_eq(site_loss(p), expected, 1e-5 * expected);
}

static const struct qp_number_format *const formats[] = {&int4, &int3_asymmetric, &fp8, &mxfp4};

Test(solver, descent_never_loses_to_gptq_or_rounding)
{
    int64_t steps = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        int64_t rows = 1 + (int64_t)(i * 7 % MOST_ROWS), cols = 2 + (int64_t)(i * 13 % (MOST_COLS - 1));
        struct problem *p = make(formats[i % 4], rows, cols, i % 5 == 0 ? 0 : 1 + (int64_t)(i % 16), 10 * i);
        double nearest = explicit_loss(p, true);
        solve(p, (enum qp_order)(i % 3), NULL, NULL);
        double solved = explicit_loss(p, true);
        steps += descent(p, 4, 0.0, i % 7 == 0).steps;
        double best = explicit_loss(p, true), slack = 1e-5 * (nearest + solved);
        cr_assert_leq(best, nearest + slack, "problem %d: %g, by rounding %g", (int)i, best, nearest);
        cr_assert_leq(best, solved + slack, "problem %d: %g, by gptq %g", (int)i, best, solved);
    }
    cr_expect_gt(steps, 0, "the descent finds nothing in a thousand problems");
}

Test(solver, what_descent_tells_is_the_loss)
{
    struct problem *p = make(&int4, 12, 32, 8, 5);
    double before = explicit_loss(p, true);
    struct qp_descent_result told = descent(p, 4, 0.0, true);
    double after = explicit_loss(p, true);
    cr_expect_gt(told.steps, 0);
    cr_expect_float_eq(told.before, before, 1e-4 * before);
    cr_expect_float_eq(told.after, after, 1e-4 * before);
}

/* At a = 1 the loss of asymmetric calibration is that against the original network's outputs, but for a constant; it
 * may not rise. */
Test(solver, asymmetric_calibration_by_one_aims_at_the_original_outputs)
{
    int asymmetric = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct problem *p = make(&int4, 12, 32, 8, 50 * seed);
        double before = explicit_loss(p, false);
        struct qp_descent_result told = descent(p, 6, 1.0, seed % 2 == 1);
        double after = explicit_loss(p, false);
        if (!told.asymmetric)
            continue;
        asymmetric++;
        cr_expect_leq(after, before * (1 + 1e-4));
        cr_expect_float_eq(told.before - told.after, before - after, 2e-4 * before);
    }
    cr_expect_gt(asymmetric, 0);
}

/* What the codes lose on the held-out tokens against the original outputs, less a constant. */
static double held_loss(const struct problem *p)
{
    float q[MOST_ROWS * MOST_COLS];
    double loss = 0.0;
    values(p, q);
    for (int64_t r = 0; r < p->rows; r++)
        for (int64_t i = 0; i < p->cols; i++)
            for (int64_t j = 0; j < p->cols; j++) {
                const float *w = p->w + r * p->cols, *to = q + r * p->cols;
                double delta = (double)w[j] - to[j];
                loss += ((double)w[i] - to[i]) * p->held_hessian[i * p->cols + j] * delta +
                        2.0 * w[i] * p->held_asymmetry[i * p->cols + j] * delta;
            }
    return loss;
}

static struct problem *make_held(uint64_t seed, bool against)
{
    struct problem *p = make(&int4, 12, 32, 8, 50 * seed);
    for (int64_t i = 0; i < p->cols * p->cols; i++)
        p->held_asymmetry[i] *= against ? -1.0f : 1.0f;
    return p;
}

/* Held-out text whose asymmetry is the other's, or the opposite way. */
Test(solver, asymmetry_that_hurts_where_it_was_not_learned_is_dropped)
{
    int kept[2] = {0};
    for (uint64_t seed = 0; seed < 40; seed++) {
        bool refit = seed % 2 == 1, against = seed % 4 < 2;
        float plain[MOST_ROWS * MOST_COLS], found[MOST_ROWS * MOST_COLS];
        struct problem *p = make_held(seed, against);
        descent(p, 6, 0.0, refit);
        double loss = held_loss(p);
        values(p, plain);

        p = make_held(seed, against);
        bool asymmetric = descent(p, 6, 1.0, refit).asymmetric;
        values(p, found);
        bool same = memcmp(plain, found, sizeof(float) * (size_t)(p->rows * p->cols)) == 0;
        cr_expect_eq(same, !asymmetric, "seed %d", (int)seed);
        cr_expect(asymmetric ? held_loss(p) < loss + 1e-4 * fabs(loss) : held_loss(p) == loss, "seed %d", (int)seed);
        kept[against] += asymmetric;
    }
    cr_expect(kept[0] > 0 && kept[1] < 20, "%d of 20 where it should help, %d where not", kept[0], kept[1]);
}

Test(solver, refit_takes_scales_that_can_be_held_and_tells_its_gain)
{
    for (int g = 0; g < 3; g++) {
        struct problem *p = make(formats[g], 12, 30, 7, 70);
        float q[MOST_ROWS * MOST_COLS], gradient[MOST_ROWS * MOST_COLS], old[MOST_ROWS * MOST_COLS];
        double before = explicit_loss(p, true);
        memcpy(old, p->scale, sizeof old);
        values(p, q);
        for (int64_t i = 0; i < p->rows * p->cols; i++)
            q[i] = p->w[i] - q[i];
        p->block.kernels->gemm(&(struct qp_gemm){false, false, 12, 30, 30, 1.0f, q, 30, p->h, 30, 0.0f, gradient, 30});
        double gain = qp_refit_scales(&p->m->q, p->h, gradient, p->scale), after = explicit_loss(p, true);
        cr_expect_gt(gain, 0.0);
        cr_expect_float_eq(before - after, gain, 1e-4 * before);
        cr_expect(memcmp(old, p->scale, (size_t)(12 * 5) * sizeof *old) != 0);
        for (int i = 0; i < 12 * 5; i++)
            cr_expect_eq(p->scale[i], qp_held_scale(&p->m->q.format, p->scale[i]));
    }
}

/* ---- order ---- */

Test(solver, orders_are_permutations_and_groups_stay_whole)
{
    enum { N = 50, SIZE = 8 };
    struct qp_error err;
    float diagonal[N];
    tiny_random(8, N, 1.0f, diagonal);
    for (int i = 0; i < N; i++)
        diagonal[i] = fabsf(diagonal[i]);
    diagonal[3] = diagonal[30] = 0.0f;
    for (int kind = QP_ORDER_ACTIVATION; kind <= QP_ORDER_GROUP; kind++) {
        int64_t *order, seen[N] = {0};
        cr_assert_eq(qp_order_by_diagonal((enum qp_order)kind, N, SIZE, diagonal, &order, &err), 0);
        for (int i = 0; i < N; i++)
            seen[order[i]]++;
        float last_group = INFINITY;
        for (int i = 0, left = 0; i < N; i++, left--) {
            cr_expect_eq(seen[i], 1);
            bool enters = i == 0 || order[i] / SIZE != order[i - 1] / SIZE;
            if (kind == QP_ORDER_GROUP && enters) {
                cr_expect_eq(left, 0, "a group ends before all its columns came");
                left = order[i] / SIZE == N / SIZE ? N % SIZE : SIZE;
                cr_expect_leq(diagonal[order[i]], last_group);
                last_group = diagonal[order[i]];
            } else if (i > 0)
                cr_expect_leq(diagonal[order[i]], diagonal[order[i - 1]]);
        }
        free(order);
    }
    int64_t *natural;
    cr_assert_eq(qp_order_by_diagonal(QP_ORDER_NATURAL, N, SIZE, diagonal, &natural, &err), 0);
    cr_expect_null(natural);
}

/* ---- gptq ---- */

/* Gauss-Jordan; a is positive definite and destroyed. */
static void invert(int64_t n, double *a, double *inverse)
{
    for (int64_t i = 0; i < n * n; i++)
        inverse[i] = i % (n + 1) == 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < n; r++) {
            double factor = r == i ? 0.0 : a[r * n + i] / a[i * n + i];
            for (int64_t j = 0; j < n; j++) {
                a[r * n + j] -= factor * a[i * n + j];
                inverse[r * n + j] -= factor * inverse[i * n + j];
            }
        }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            inverse[i * n + j] /= a[i * n + i];
}

/* Columns one by one with the whole inverse, as optimal brain quantization (Frantar and Alistarh 2022, equation 2) does
 * it, in double. With `anew` the scales of a group are those of its weights when its first column comes. */
static void textbook(struct problem *p, const int64_t *order, bool anew)
{
    double a[MOST_COLS * MOST_COLS], inverse[MOST_COLS * MOST_COLS], w[MOST_ROWS * MOST_COLS], mean = 0.0;
    int64_t n = p->cols, group = p->m->q.group, groups = qp_groups(n, group);
    for (int64_t i = 0; i < n; i++)
        mean += p->h[i * n + i] / (double)n;
    for (int64_t i = 0; i < n * n; i++)
        a[i] = p->h[i] + (i % (n + 1) == 0 ? 0.01 * mean : 0.0);
    for (int64_t i = 0; i < p->rows * n; i++)
        w[i] = p->w[i];
    invert(n, a, inverse);
    for (int64_t k = 0; k < n; k++) {
        int64_t c = order ? order[k] : k, before = k == 0 ? -1 : (order ? order[k - 1] : k - 1) / group;
        for (int64_t r = 0; r < p->rows; r++) {
            float *scale = &p->scale[r * groups + c / group], x, part[MOST_COLS];
            int64_t first = c / group * group, count = n - first < group ? n - first : group;
            for (int64_t i = 0; i < count; i++)
                part[i] = (float)w[r * n + first + i];
            if (anew && c / group != before)
                p->block.kernels->qparams(&p->m->q.format, 1, count, count, part, scale, NULL);
            uint8_t *code = &p->codes[r * n + c];
            float target = (float)w[r * n + c];
            p->block.kernels->quantize(&(struct qp_grouped){&p->m->q.format, 1, 1, 1, scale, NULL}, &target, code);
            p->block.kernels->dequantize(&(struct qp_grouped){&p->m->q.format, 1, 1, 1, scale, NULL}, code, &x);
            double error = (w[r * n + c] - x) / inverse[c * n + c];
            for (int64_t i = k + 1; i < n; i++) {
                int64_t j = order ? order[i] : i;
                w[r * n + j] -= error * inverse[c * n + j];
            }
        }
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n && i != c; j++)
                if (j != c)
                    inverse[i * n + j] -= inverse[i * n + c] * inverse[c * n + j] / inverse[c * n + c];
    }
}

/* A last place decides a code between two, and with it the rest of its row: that may happen in a few rows. */
static void expect_textbook(enum qp_order kind, bool anew)
{
    struct qp_error err;
    const struct qp_quantize_options o = {.method = "gptq", .scales = "minmax", .shrink = 1.0, .steps = 1};
    float scale[MOST_ROWS * MOST_COLS];
    uint8_t codes[MOST_ROWS * MOST_COLS];
    int64_t *order, same = 0;
    struct problem *p = make(&int4, 12, 30, 8, 90);
    struct qp_rescaling rescaling = {&o, &p->work, p->m};
    float diagonal[30];
    for (int i = 0; i < 30; i++)
        diagonal[i] = p->h[i * 30 + i];
    cr_assert_eq(qp_order_by_diagonal(kind, 30, 8, diagonal, &order, &err), 0);
    solve(p, kind, anew ? qp_rescale_group : NULL, &rescaling);
    memcpy(codes, p->codes, sizeof codes);
    memcpy(scale, p->scale, sizeof scale);
    textbook(make(&int4, 12, 30, 8, 90), order, anew);
    free(order);
    for (int64_t r = 0; r < 12; r++) {
        if (memcmp(codes + r * 30, p->codes + r * 30, 30) != 0)
            continue;
        same++;
        for (int64_t g = r * 4; g < (r + 1) * 4; g++)
            cr_expect_float_eq(scale[g], p->scale[g], 1e-4 * scale[g]);
    }
    cr_expect_geq(same, 9, "order %d: %d of 12 rows agree", kind, (int)same);
}

Test(solver, gptq_is_optimal_brain_quantization_in_every_order)
{
    expect_textbook(QP_ORDER_NATURAL, false);
    expect_textbook(QP_ORDER_ACTIVATION, false);
    expect_textbook(QP_ORDER_GROUP, false);
}

Test(solver, scales_are_estimated_anew_from_the_weights_that_the_loop_finds)
{
    expect_textbook(QP_ORDER_NATURAL, true);
    expect_textbook(QP_ORDER_GROUP, true);
}

/* ---- hqq ---- */

static double mean_error(const struct problem *p)
{
    float q[MOST_ROWS * MOST_COLS];
    double sum = 0.0;
    values(p, q);
    for (int64_t i = 0; i < p->rows * p->cols; i++)
        sum += fabs((double)q[i] - p->w[i]);
    return sum;
}

/* A step is taken only when the mean error falls by it. */
Test(solver, hqq_never_raises_the_mean_error)
{
    int moved = 0;
    for (int g = 0; g < 3; g++) {
        struct qp_error err;
        struct problem *p = make(formats[g], 12, 32, 16, 31);
        for (int64_t i = 0; i < 12 * 32; i += 16)
            p->w[i] *= 4.0f;
        struct qp_quantized *q = &p->m->q;
        p->block.kernels->qparams(&q->format, 12, 32, 16, p->w, p->scale, p->zero);
        p->block.kernels->quantize(&(struct qp_grouped){&q->format, 12, 32, 16, p->scale, q->zero}, p->w, p->codes);
        double before = mean_error(p);
        float scale[12 * 2];
        memcpy(scale, p->scale, sizeof scale);
        cr_assert_eq(qp_hqq(p->m, &err), 0);
        p->block.kernels->quantize(&(struct qp_grouped){&q->format, 12, 32, 16, p->scale, q->zero}, p->w, p->codes);
        cr_expect_leq(mean_error(p), before * (1 + 1e-6), "format %d", g);
        moved += memcmp(p->scale, scale, sizeof scale) != 0;
        for (int i = 0; i < 12 * 2; i++)
            cr_expect_eq(p->scale[i], qp_held_scale(&q->format, p->scale[i]));
    }
    cr_expect_gt(moved, 0, "no scale was fitted");
}

Test(solver, hqq_says_what_it_cannot_fit)
{
    struct qp_error err;
    struct problem *p = make(&mxfp4, 4, 32, 32, 1);
    cr_expect_eq(qp_hqq(p->m, &err), QP_ERR_INPUT);
    cr_expect(strstr(err.message, "powers of 2"));
}
