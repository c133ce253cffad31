#include "stages/quantize/polish.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/memory.h"
#include "libstage/solvers/quality.h"
#include "libstage/tensor/operations.h"
#include "stages/quantize/refit.h"

/* [rows, in] each: p (NULL without a pull), H (w - q) + p, w - q or scratch. */
struct polisher {
    const struct qp_kernels *kernels;
    const struct qp_member *m;
    const float *h;
    float *pull, *gradient, *delta;
    int64_t in;
};

/* p = a D^T w for each row, so a W D. */
static void set_pull(const struct polisher *p, const float *drift, double amount, float *pull)
{
    p->kernels->gemm(false, false, p->m->q.rows, p->in, p->in, (float)amount, p->m->w, p->in, drift, p->in, 0.0f, pull,
                     p->in);
}

/* delta = w - q of these codes. */
static void set_delta(struct polisher *p, const uint8_t *codes)
{
    const struct qp_quantized *q = &p->m->q;
    p->kernels->dequantize(&q->grid, q->rows, q->cols, q->group, codes, q->scale, q->zero, p->delta);
    for (int64_t i = 0; i < q->rows * q->cols; i++)
        p->delta[i] = p->m->w[i] - p->delta[i];
}

/* gradient = H delta + p of these rows. */
static void set_gradient(struct polisher *p, int64_t first, int64_t rows)
{
    int64_t from = first * p->in;
    if (p->pull)
        memcpy(p->gradient + from, p->pull + from, (size_t)(rows * p->in) * sizeof *p->pull);
    p->kernels->gemm(false, false, rows, p->in, p->in, 1.0f, p->delta + from, p->in, p->h, p->in, p->pull ? 1.0f : 0.0f,
                     p->gradient + from, p->in);
}

/* What rounding each row to nearest would lose; its codes go to `nearest`. */
static void judge_nearest(struct polisher *p, uint8_t *nearest, double *loss)
{
    const struct qp_quantized *q = &p->m->q;
    p->kernels->quantize(&q->grid, q->rows, q->cols, q->group, p->m->w, q->scale, q->zero, nearest);
    set_delta(p, nearest);
    qp_row_losses(p->kernels, q->rows, p->in, p->delta, p->h, p->gradient, loss);
    for (int64_t r = 0; r < q->rows && p->pull; r++)
        loss[r] += 2.0 * qp_dot(p->in, p->pull + r * p->in, p->delta + r * p->in);
}

/* What the codes lose, and their gradient. */
static void judge_codes(struct polisher *p, double *loss)
{
    set_delta(p, p->m->codes);
    set_gradient(p, 0, p->m->q.rows);
    for (int64_t r = 0; r < p->m->q.rows; r++) {
        const float *delta = p->delta + r * p->in;
        loss[r] =
            qp_dot(p->in, p->gradient + r * p->in, delta) + (p->pull ? qp_dot(p->in, p->pull + r * p->in, delta) : 0.0);
    }
}

static void take_row(struct polisher *p, int64_t r, const uint8_t *codes)
{
    const struct qp_quantized *q = &p->m->q;
    int64_t scales = q->group == 0 ? 0 : r * qp_groups(q->cols, q->group);
    float *delta = p->delta + r * p->in;
    memcpy(p->m->codes + r * p->in, codes, (size_t)p->in);
    p->kernels->dequantize(&q->grid, 1, q->cols, q->group, codes, q->scale + scales, q->zero ? q->zero + scales : NULL,
                           delta);
    for (int64_t i = 0; i < p->in; i++)
        delta[i] = p->m->w[r * p->in + i] - delta[i];
    set_gradient(p, r, 1);
}

/* Gives each row the codes of rounding to nearest where those lose less; `loss` is what is left. */
static int choose_start(struct polisher *p, double *loss, struct qp_error *err)
{
    const struct qp_quantized *q = &p->m->q;
    double *other = qp_new_array(q->rows, sizeof *other, "losses of rows", err);
    uint8_t *nearest = qp_new_array(q->rows * q->cols, 1, "codes", err);
    int r = other && nearest ? 0 : QP_ERR_ROOM;
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

static double descend(struct polisher *p, int64_t sweeps, double *gains, int64_t *steps)
{
    const struct qp_quantized *q = &p->m->q;
    struct qp_polish polish = {.grid = &q->grid,
                               .rows = q->rows,
                               .cols = q->cols,
                               .group = q->group,
                               .h = p->h,
                               .scale = q->scale,
                               .zero = q->zero,
                               .codes = p->m->codes,
                               .gradient = p->gradient,
                               .sweeps = (int)sweeps,
                               .gain = gains};
    double sum = 0.0;
    *steps += p->kernels->polish(&polish);
    for (int64_t r = 0; r < q->rows; r++)
        sum += gains[r];
    return sum;
}

static bool can_refit(const struct qp_member *m)
{
    return m->q.group > 0 && m->spec->granularity != QP_PER_BLOCK && m->q.grid.scale_dtype != QP_F8_E8M0;
}

static int polish(const struct qp_quantize_options *o, struct polisher *p, struct qp_polished *out,
                  struct qp_error *err)
{
    int64_t sweeps = qp_polish_sweeps(o);
    *out = (struct qp_polished){.pulled = p->pull != NULL};
    double *rows = qp_new_array(p->m->q.rows, sizeof *rows, "losses of rows", err);
    int r = rows ? choose_start(p, rows, err) : QP_ERR_ROOM;
    if (r == 0) {
        for (int64_t i = 0; i < p->m->q.rows; i++)
            out->before += rows[i];
        out->after = out->before - descend(p, sweeps, rows, &out->steps);
        r = qp_operations_go_on(err);
        if (r == 0 && o->refit && can_refit(p->m)) {
            out->after -= qp_refit_scales(&p->m->q, p->h, p->gradient, p->m->scale);
            out->after -= descend(p, sweeps, rows, &out->steps);
        }
    }
    free(rows);
    return r;
}

/* ---- with a pull, and without ---- */

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
static int judge_held(struct polisher *p, const struct qp_site_work *work, double *loss, struct qp_error *err)
{
    int64_t rows = p->m->q.rows;
    double *losses = qp_new_array(rows, sizeof *losses, "losses of rows", err);
    if (!losses)
        return QP_ERR_ROOM;
    set_delta(p, p->m->codes);
    qp_row_losses(p->kernels, rows, p->in, p->delta, work->held_moment, p->gradient, losses);
    set_pull(p, work->held_drift, 1.0, p->gradient);
    *loss = 2.0 * qp_dot(rows * p->in, p->gradient, p->delta);
    for (int64_t r = 0; r < rows; r++)
        *loss += losses[r];
    free(losses);
    return 0;
}

/* Polishes and judges. */
static int attempt(const struct qp_quantize_options *o, const struct qp_site_work *work, struct polisher *p,
                   struct qp_polished *out, double *held, struct qp_error *err)
{
    int r = polish(o, p, out, err);
    return r == 0 ? judge_held(p, work, held, err) : r;
}

/* `start` and `plain` have room for an outcome each. */
static int choose_pull(const struct qp_quantize_options *o, const struct qp_site_work *work, struct polisher *p,
                       struct outcome start, struct outcome plain, struct qp_polished *out, struct qp_error *err)
{
    const struct outcome now = {p->m->codes, p->m->scale};
    float *pull = p->pull;
    struct qp_polished pulled;
    double held_plain, held_pulled;
    copy_outcome(&p->m->q, start, now);
    p->pull = NULL;
    int r = attempt(o, work, p, out, &held_plain, err);
    p->pull = pull;
    if (r < 0)
        return r;
    copy_outcome(&p->m->q, plain, now);
    copy_outcome(&p->m->q, now, start);
    set_pull(p, work->drift, o->pull, p->pull);
    r = attempt(o, work, p, &pulled, &held_pulled, err);
    if (r == 0 && held_pulled < held_plain)
        *out = pulled;
    else
        copy_outcome(&p->m->q, now, plain);
    return r;
}

static int polish_pulled(const struct qp_quantize_options *o, const struct qp_site_work *work, struct polisher *p,
                         struct qp_polished *out, struct qp_error *err)
{
    int64_t codes = p->m->q.rows * p->m->q.cols, scales = scales_of(&p->m->q);
    uint8_t *bytes = qp_new_array(2 * codes, 1, "codes", err);
    float *floats = qp_new_floats(2 * scales, "scales", err);
    int r = bytes && floats ? choose_pull(o, work, p, (struct outcome){bytes, floats},
                                          (struct outcome){bytes + codes, floats + scales}, out, err)
                            : QP_ERR_ROOM;
    free(bytes);
    free(floats);
    return r;
}

int qp_polish_member(const struct qp_quantize_options *options, const struct qp_site_work *work, struct qp_member *m,
                     struct qp_polished *out, struct qp_error *err)
{
    int64_t count = m->q.rows * work->in;
    bool pulled = work->drift != NULL;
    struct polisher p = {.kernels = work->block->kernels,
                         .m = m,
                         .h = m->h,
                         .pull = pulled ? qp_new_floats(count, "the pull of the drift", err) : NULL,
                         .gradient = qp_new_floats(count, "gradients", err),
                         .delta = qp_new_floats(count, "errors of weights", err),
                         .in = work->in};
    int r = p.gradient && p.delta && (p.pull || !pulled) ? 0 : QP_ERR_ROOM;
    if (r == 0)
        r = pulled ? polish_pulled(options, work, &p, out, err) : polish(options, &p, out, err);
    free(p.pull);
    free(p.gradient);
    free(p.delta);
    return r;
}
