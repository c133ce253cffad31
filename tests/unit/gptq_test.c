/* GPTQ's solver on sizes at which its parts meet - several blocks, several chunks of rows, with a sketch and without -
 * against losses and gradients in double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <criterion/criterion.h>

#include "libstage/solvers/gptq.h"

static const struct qp_number_format int4 = {.codes = QP_I8, .bits = 4, .symmetric = true, .scale_dtype = QP_BF16};

struct problem {
    int64_t rows, cols, group;
    float *w, *h, *scale;
    uint8_t *codes;
};

static void *fresh(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count, size);
    cr_assert(memory != NULL);
    return memory;
}

static float *random_floats(int64_t count, uint64_t seed)
{
    float *x = fresh(count, sizeof *x);
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(seed >> 33) * 0x1p-30 - 1.0);
    }
    return x;
}

/* H of correlated columns of several sizes, one of which was never seen. */
static struct problem make(int64_t rows, int64_t cols, int64_t group)
{
    const struct qp_kernels *ref = qp_kernels_open("ref");
    struct problem p = {.rows = rows, .cols = cols, .group = group};
    int64_t tokens = cols + cols / 2;
    float *x = random_floats(tokens * cols, 7), *common = random_floats(tokens, 8);
    for (int64_t i = 0; i < tokens * cols; i++)
        x[i] = i % cols == 3 ? 0.0f : (x[i] + common[i / cols]) * (i % cols % 5 == 0 ? 3.0f : 0.7f);
    p.h = fresh(cols * cols, sizeof(float));
    qp_kernels_open("cpu")->hessian(tokens, cols, x, p.h);
    ref->mirror(cols, p.h);
    p.w = random_floats(rows * cols, 9);
    p.scale = fresh(qp_scale_count(rows, cols, group), sizeof(float));
    p.codes = fresh(rows * cols, 1);
    ref->qparams(&int4, rows, cols, group, p.w, p.scale, NULL);
    free(x);
    free(common);
    return p;
}

static void release(struct problem *p)
{
    free(p->w);
    free(p->h);
    free(p->scale);
    free(p->codes);
}

static void solve(const struct qp_kernels *k, struct problem *p, enum qp_order order, double damping,
                  const struct qp_gptq_rest *rest)
{
    struct qp_error err;
    struct qp_gptq *solver;
    const struct qp_quantized q = {int4, p->rows, p->cols, p->group, p->codes, p->scale, NULL, NULL, NULL};
    cr_assert_eq(qp_gptq_open(k, p->cols, p->h,
                              &(struct qp_gptq_columns){.block = 64, .order = order, .group = p->group}, &damping,
                              &solver, &err),
                 0, "%s", err.message);
    cr_assert_eq(qp_gptq_solve(solver, &q, p->w, p->codes, NULL, rest, &err), 0, "%s", err.message);
    qp_gptq_close(solver);
}

/* gradient[cols] = H (w - q) of a row with these codes; returns (w - q)ᵀ H (w - q). */
static double judge(const struct problem *p, int64_t row, const uint8_t *codes, double *gradient)
{
    double *d = fresh(p->cols, sizeof *d), loss = 0.0;
    for (int64_t i = 0; i < p->cols; i++) {
        float scale = p->scale[row * qp_groups(p->cols, p->group) + i / p->group];
        d[i] = (double)p->w[row * p->cols + i] - (double)((float)(int8_t)codes[i] * scale);
    }
    for (int64_t i = 0; i < p->cols; i++) {
        gradient[i] = 0.0;
        for (int64_t j = 0; j < p->cols; j++)
            gradient[i] += (double)p->h[i * p->cols + j] * d[j];
        loss += gradient[i] * d[i];
    }
    free(d);
    return loss;
}

static void check_rest(const char *backend, const struct problem *p, const struct qp_gptq_rest *rest)
{
    double *gradient = fresh(p->cols, sizeof *gradient);
    uint8_t *nearest = fresh(p->rows * p->cols, 1);
    qp_kernels_open("ref")->quantize(&(struct qp_grouped){&int4, p->rows, p->cols, p->group, p->scale, NULL}, p->w,
                                     nearest);
    for (int64_t r = 0; r < p->rows; r++) {
        double other = judge(p, r, nearest + r * p->cols, gradient), largest = 0.0;
        double loss = judge(p, r, p->codes + r * p->cols, gradient);
        for (int64_t i = 0; i < p->cols; i++)
            largest = fmax(largest, fabs(gradient[i]));
        cr_assert_float_eq(rest->loss[r], loss, 2e-3 * loss, "%s: row %d loses %g, not %g", backend, (int)r, loss,
                           rest->loss[r]);
        cr_assert_leq(loss, other * (1 + 1e-3), "%s: row %d loses %g, to nearest %g", backend, (int)r, loss, other);
        for (int64_t i = 0; i < p->cols; i++)
            cr_assert_float_eq(rest->gradient[r * p->cols + i], gradient[i], 2e-3 * largest,
                               "%s: row %d, column %d: %g, expected %g", backend, (int)r, (int)i,
                               (double)rest->gradient[r * p->cols + i], gradient[i]);
    }
    free(gradient);
    free(nearest);
}

static void check(int64_t rows, int64_t cols, int64_t group, enum qp_order order, double damping)
{
    static const char *const backends[] = {"ref", "cpu", "avx2", "avx512"};
    struct problem p = make(rows, cols, group);
    struct qp_gptq_rest rest = {fresh(rows * cols, sizeof(float)), fresh(rows, sizeof(double))};
    for (size_t b = 0; b < sizeof backends / sizeof *backends; b++) {
        const struct qp_kernels *k = qp_kernels_open(backends[b]);
        if (!k)
            continue;
        solve(k, &p, order, damping, &rest);
        check_rest(backends[b], &p, &rest);
    }
    free(rest.gradient);
    free(rest.loss);
    release(&p);
}

Test(gptq, tells_the_loss_and_the_gradient_of_its_codes)
{
    check(21, 150, 50, QP_ORDER_ACTIVATION, 0.01);
    check(9, 64, 64, QP_ORDER_NATURAL, 0.01);
    check(5, 200, 30, QP_ORDER_GROUP, 0.05);
}

Test(gptq, tells_them_where_rounding_to_nearest_is_estimated)
{
    check(70, 560, 80, QP_ORDER_ACTIVATION, 0.01);
}

/* Damping as large as the diagonal makes GPTQ look at another loss than the one that counts: some rows are better off
 * rounded to nearest, and get that. */
Test(gptq, takes_rounding_to_nearest_where_it_loses_less)
{
    check(200, 90, 30, QP_ORDER_ACTIVATION, 1.0);
}

Test(gptq, the_same_codes_with_and_without_the_rest_and_for_any_number_of_threads)
{
    struct problem p = make(300, 300, 100);
    uint8_t *first = fresh(300 * 300, 1);
    struct qp_gptq_rest rest = {fresh(300 * 300, sizeof(float)), fresh(300, sizeof(double))};
    float *gradient = fresh(300 * 300, sizeof(float));
    for (int threads = 1; threads <= 3; threads++) {
        qp_kernels_set_threads(threads);
        solve(qp_kernels_open("cpu"), &p, QP_ORDER_ACTIVATION, 0.01, &rest);
        if (threads == 1) {
            memcpy(first, p.codes, 300 * 300);
            memcpy(gradient, rest.gradient, 300 * 300 * sizeof(float));
        }
        cr_assert(memcmp(first, p.codes, 300 * 300) == 0, "with %d threads", threads);
        cr_assert(memcmp(gradient, rest.gradient, 300 * 300 * sizeof(float)) == 0, "with %d threads", threads);
    }
    solve(qp_kernels_open("cpu"), &p, QP_ORDER_ACTIVATION, 0.01, NULL);
    int changed = 0;
    for (int64_t i = 0; i < 300 * 300; i++)
        changed += first[i] != p.codes[i];
    cr_assert_eq(changed, 0, "%d codes of rows of which none is better off rounded to nearest", changed);
    free(first);
    free(gradient);
    free(rest.gradient);
    free(rest.loss);
    release(&p);
}

/* The same problem as a triangle, whose elements stand for what they are divided by the fold's. */
static void solve_packed(const struct problem *p, const float *fold, enum qp_order order, uint8_t *codes)
{
    int64_t n = p->cols;
    double damping = 0.01;
    struct qp_error err;
    struct qp_gptq *solver;
    float *rows = fresh(qp_triangle_row(n, n), sizeof *rows);
    const struct qp_quantized q = {int4, p->rows, n, p->group, codes, p->scale, NULL, NULL, NULL};
    for (int64_t i = 0; i < n; i++)
        memcpy(rows + qp_triangle_row(n, i), p->h + i * n + i, (size_t)(n - i) * sizeof *rows);
    cr_assert_eq(qp_gptq_open_packed(qp_kernels_open("cpu"), n, &(struct qp_packed_hessian){rows, fold},
                                     &(struct qp_gptq_columns){.block = 64, .order = order, .group = p->group},
                                     &damping, &solver, &err),
                 0, "%s", err.message);
    cr_assert_eq(qp_gptq_solve(solver, &q, p->w, codes, NULL, NULL, &err), 0, "%s", err.message);
    qp_gptq_close(solver);
    free(rows);
}

Test(gptq, the_same_codes_from_a_triangle)
{
    static const enum qp_order orders[] = {QP_ORDER_NATURAL, QP_ORDER_ACTIVATION, QP_ORDER_GROUP};
    enum { ROWS = 40, COLS = 300 };
    for (int folded = 0; folded < 2; folded++)
        for (int o = 0; o < 3; o++) {
            struct problem p = make(ROWS, COLS, 60);
            float *fold = folded ? random_floats(COLS, 5) : NULL;
            uint8_t *codes = fresh(ROWS * COLS, 1);
            for (int64_t i = 0; fold && i < COLS; i++)
                fold[i] = 1.5f + fold[i];
            solve_packed(&p, fold, orders[o], codes);
            for (int64_t i = 0; fold && i < COLS * COLS; i++)
                p.h[i] /= fold[i / COLS] * fold[i % COLS];
            solve(qp_kernels_open("cpu"), &p, orders[o], 0.01, NULL);
            cr_assert_eq(memcmp(codes, p.codes, ROWS * COLS), 0, "order %d, %s", o, folded ? "folded" : "as it is");
            free(fold);
            free(codes);
            release(&p);
        }
}

/* 2816 rows are 11 parts of 256: float32 sums, weights in order with codes, two errors; and what belongs to a row. */
Test(gptq, bytes_of_a_solver)
{
    const struct qp_kernels *ref = qp_kernels_open("ref");
    cr_expect_eq(qp_gptq_factor_bytes(ref, 64), 4.0 * 64 * 64);
    cr_expect_eq(qp_gptq_factor_bytes(ref, 1024), 4.0 * (1024 * 1024 + 128 * 1024), "with a sketch");
    qp_kernels_set_threads(3);
    double thread = 256 * (1024 * (4 + 4 + 1 + 2 * 4) + 4 * 128 + 8 + 5) + 1024.0;
    cr_expect_eq(qp_gptq_solve_bytes(ref, 2816, 1024, 128, true), 3 * thread + 4.0 * 8 * 128 * 128);
}
