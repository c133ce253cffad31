#include "stages/quantize/descent.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/memory.h"
#include "libstage/solvers/quality.h"
#include "libstage/tensor/operations.h"
#include "stages/quantize/refit.h"

/* [rows, in] each: p (NULL without asymmetric calibration), H (w - q) + p, w - q or scratch. */
struct descent_work {
    const struct qp_kernels *kernels;
    const struct qp_member *m;
    const float *h;
    float *linear_term, *gradient, *delta;
    int64_t in;
};

/* p = a D^T w for each row, so a W D. */
static void set_linear_term(const struct descent_work *p, const float *asymmetry, double amount, float *linear_term)
{
    p->kernels->gemm(&(struct qp_gemm){false, false, p->m->q.rows, p->in, p->in, (float)amount, p->m->w, p->in,
                                       asymmetry, p->in, 0.0f, linear_term, p->in});
}

/* delta = w - q of these codes. */
static void set_delta(struct descent_work *p, const uint8_t *codes)
{
    const struct qp_quantized *q = &p->m->q;
    p->kernels->dequantize(&(struct qp_grouped){&q->format, q->rows, q->cols, q->group, q->scale, q->zero}, codes,
                           p->delta);
    for (int64_t i = 0; i < q->rows * q->cols; i++)
        p->delta[i] = p->m->w[i] - p->delta[i];
}

/* gradient = H delta + p of these rows. */
static void set_gradient(struct descent_work *p, int64_t first, int64_t rows)
{
    int64_t from = first * p->in;
    if (p->linear_term)
        memcpy(p->gradient + from, p->linear_term + from, (size_t)(rows * p->in) * sizeof *p->linear_term);
    p->kernels->gemm(&(struct qp_gemm){false, false, rows, p->in, p->in, 1.0f, p->delta + from, p->in, p->h, p->in,
                                       p->linear_term ? 1.0f : 0.0f, p->gradient + from, p->in});
}

/* What rounding each row to nearest would lose; its codes go to `nearest`. */
static void judge_nearest(struct descent_work *p, uint8_t *nearest, double *loss)
{
    const struct qp_quantized *q = &p->m->q;
    p->kernels->quantize(&(struct qp_grouped){&q->format, q->rows, q->cols, q->group, q->scale, q->zero}, p->m->w,
                         nearest);
    set_delta(p, nearest);
    qp_row_losses(p->kernels, q->rows, p->in, p->delta, p->h, p->gradient, loss);
    for (int64_t r = 0; r < q->rows && p->linear_term; r++)
        loss[r] += 2.0 * qp_dot(p->in, p->linear_term + r * p->in, p->delta + r * p->in);
}

/* What the codes lose, and their gradient. */
static void judge_codes(struct descent_work *p, double *loss)
{
    set_delta(p, p->m->codes);
    set_gradient(p, 0, p->m->q.rows);
    for (int64_t r = 0; r < p->m->q.rows; r++) {
        const float *delta = p->delta + r * p->in;
        loss[r] = qp_dot(p->in, p->gradient + r * p->in, delta) +
                  (p->linear_term ? qp_dot(p->in, p->linear_term + r * p->in, delta) : 0.0);
    }
}

static void take_row(struct descent_work *p, int64_t r, const uint8_t *codes)
{
    const struct qp_quantized *q = &p->m->q;
    int64_t scales = q->group == 0 ? 0 : r * qp_groups(q->cols, q->group);
    float *delta = p->delta + r * p->in;
    memcpy(p->m->codes + r * p->in, codes, (size_t)p->in);
    p->kernels->dequantize(
        &(struct qp_grouped){&q->format, 1, q->cols, q->group, q->scale + scales, q->zero ? q->zero + scales : NULL},
        codes, delta);
    for (int64_t i = 0; i < p->in; i++)
        delta[i] = p->m->w[r * p->in + i] - delta[i];
    set_gradient(p, r, 1);
}

/* Gives each row the codes of rounding to nearest where those lose less; `loss` is what is left. */
static int choose_start(struct descent_work *p, double *loss, struct qp_error *err)
{
    const struct qp_quantized *q = &p->m->q;
    double *other = qp_new_array(q->rows, sizeof *other, "losses of rows", err);
    uint8_t *nearest = qp_new_array(q->rows * q->cols, 1, "codes", err);
    int r = other && nearest ? 0 : QP_ERR_SPACE;
    if (r == 0) {
        judge_nearest(p, nearest, other);
        judge_codes(p, loss);
        for (int64_t i = 0; i < q->rows && !qp_failure_is_set(); i++)
            if (other[i] < loss[i]) {
                take_row(p, i, nearest + i * p->in);
                loss[i] = other[i];
            }
    }
    free(other);
    free(nearest);
    return r;
}

/* `last`: nothing follows that needs the gradient. */
static double run_sweeps(struct descent_work *p, int64_t sweeps, bool last, double *gains, int64_t *steps)
{
    const struct qp_quantized *q = &p->m->q;
    struct qp_descent descent = {.format = &q->format,
                                 .rows = q->rows,
                                 .cols = q->cols,
                                 .group = q->group,
                                 .h = p->h,
                                 .scale = q->scale,
                                 .zero = q->zero,
                                 .codes = p->m->codes,
                                 .gradient = p->gradient,
                                 .sweeps = (int)sweeps,
                                 .codes_only = last,
                                 .gain = gains};
    double sum = 0.0;
    *steps += p->kernels->descent(&descent);
    for (int64_t r = 0; r < q->rows; r++)
        sum += gains[r];
    return sum;
}

static bool can_refit(const struct qp_member *m)
{
    return m->q.group > 0 && m->spec->granularity != QP_PER_BLOCK && m->q.format.scale_dtype != QP_F8_E8M0;
}

/* `known`: the rows' losses, where the codes to start from and their gradient are there; else NULL. */
static int descend_rows(const struct qp_quantize_options *o, struct descent_work *p, const double *known,
                        struct qp_descent_result *out, struct qp_error *err)
{
    int64_t sweeps = qp_descent_sweeps(o);
    *out = (struct qp_descent_result){.asymmetric = p->linear_term != NULL};
    double *rows = qp_new_array(p->m->q.rows, sizeof *rows, "losses of rows", err);
    int r = !rows ? QP_ERR_SPACE : known ? 0 : choose_start(p, rows, err);
    if (r == 0) {
        for (int64_t i = 0; i < p->m->q.rows; i++)
            out->before += known ? known[i] : rows[i];
        bool refits = o->refit && can_refit(p->m);
        out->after = out->before - run_sweeps(p, sweeps, !refits, rows, &out->steps);
        r = qp_operations_go_on(err);
        if (r == 0 && refits) {
            out->after -= qp_refit_scales(&p->m->q, p->h, p->gradient, p->m->scale);
            out->after -= run_sweeps(p, sweeps, true, rows, &out->steps);
        }
    }
    free(rows);
    return r;
}

/* ---- with asymmetric calibration, and without ---- */

/* Codes and scales of a member. */
struct outcome {
    uint8_t *codes;
    float *scale;
};

static int64_t scales_of(const struct qp_quantized *q)
{
    return qp_scale_count(q->rows, q->cols, q->group);
}

static void copy_outcome(const struct qp_quantized *q, struct outcome to, struct outcome from)
{
    memcpy(to.codes, from.codes, (size_t)(q->rows * q->cols));
    memcpy(to.scale, from.scale, (size_t)scales_of(q) * sizeof *to.scale);
}

/* ||X0 w - X q||² less a constant, over the windows that were held out. */
static int judge_held(struct descent_work *p, const struct qp_site_work *work, double *loss, struct qp_error *err)
{
    int64_t rows = p->m->q.rows;
    double *losses = qp_new_array(rows, sizeof *losses, "losses of rows", err);
    if (!losses)
        return QP_ERR_SPACE;
    set_delta(p, p->m->codes);
    qp_row_losses(p->kernels, rows, p->in, p->delta, work->held_hessian, p->gradient, losses);
    set_linear_term(p, work->held_asymmetry, 1.0, p->gradient);
    *loss = 2.0 * qp_dot(rows * p->in, p->gradient, p->delta);
    for (int64_t r = 0; r < rows; r++)
        *loss += losses[r];
    free(losses);
    return 0;
}

/* Descends and judges. */
static int attempt(const struct qp_quantize_options *o, const struct qp_site_work *work, struct descent_work *p,
                   struct qp_descent_result *out, double *held, struct qp_error *err)
{
    int r = descend_rows(o, p, NULL, out, err);
    return r == 0 ? judge_held(p, work, held, err) : r;
}

/* `start` and `plain` have space for an outcome each. */
static int choose_asymmetric(const struct qp_quantize_options *o, const struct qp_site_work *work,
                             struct descent_work *p, struct outcome start, struct outcome plain,
                             struct qp_descent_result *out, struct qp_error *err)
{
    const struct outcome now = {p->m->codes, p->m->scale};
    float *linear_term = p->linear_term;
    struct qp_descent_result asymmetric;
    double held_plain, held_asymmetric;
    copy_outcome(&p->m->q, start, now);
    p->linear_term = NULL;
    int r = attempt(o, work, p, out, &held_plain, err);
    p->linear_term = linear_term;
    if (r < 0)
        return r;
    copy_outcome(&p->m->q, plain, now);
    copy_outcome(&p->m->q, now, start);
    set_linear_term(p, work->asymmetry, o->asymmetric, p->linear_term);
    r = attempt(o, work, p, &asymmetric, &held_asymmetric, err);
    if (r == 0 && held_asymmetric < held_plain)
        *out = asymmetric;
    else
        copy_outcome(&p->m->q, now, plain);
    return r;
}

static int descent_asymmetric(const struct qp_quantize_options *o, const struct qp_site_work *work,
                              struct descent_work *p, struct qp_descent_result *out, struct qp_error *err)
{
    int64_t codes = p->m->q.rows * p->m->q.cols, scales = scales_of(&p->m->q);
    uint8_t *bytes = qp_new_array(2 * codes, 1, "codes", err);
    float *floats = qp_new_floats(2 * scales, "scales", err);
    int r = bytes && floats ? choose_asymmetric(o, work, p, (struct outcome){bytes, floats},
                                                (struct outcome){bytes + codes, floats + scales}, out, err)
                            : QP_ERR_SPACE;
    free(bytes);
    free(floats);
    return r;
}

int qp_descend_member(const struct qp_quantize_options *options, const struct qp_site_work *work, struct qp_member *m,
                      const struct qp_gptq_rest *rest, struct qp_descent_result *out, struct qp_error *err)
{
    int64_t count = m->q.rows * work->in;
    bool asymmetric = work->asymmetry != NULL;
    if (rest) {
        struct descent_work going_on = {
            .kernels = work->block->kernels, .m = m, .h = m->h, .gradient = rest->gradient, .in = work->in};
        return descend_rows(options, &going_on, rest->loss, out, err);
    }
    struct descent_work p = {.kernels = work->block->kernels,
                             .m = m,
                             .h = m->h,
                             .linear_term = asymmetric ? qp_new_floats(count, "a linear term", err) : NULL,
                             .gradient = qp_new_floats(count, "gradients", err),
                             .delta = qp_new_floats(count, "errors of weights", err),
                             .in = work->in};
    int r = p.gradient && p.delta && (p.linear_term || !asymmetric) ? 0 : QP_ERR_SPACE;
    if (r == 0)
        r = asymmetric ? descent_asymmetric(options, work, &p, out, err) : descend_rows(options, &p, NULL, out, err);
    free(p.linear_term);
    free(p.gradient);
    free(p.delta);
    return r;
}
