/* quantize: turns each linear that the scheme names into codes, scales and zero points.
 *
 * For each site: scales first, of every linear that reads it (quantize/scales.h), then codes by the method, then
 * coordinate descent. rtn: round to nearest. gptq (Frantar et al. 2023, algorithm 1): with H the site's Hessian, damped
 * on the diagonal by `damping` times its mean, and R Rᵀ = H, R upper triangular, columns are rounded in order and each
 * one's error is spread over the later ones: inside blocks of `block` columns at once, over the rest by products of R
 * (kernels/gptq.h, libstage/solvers/gptq_rows.h). Scales are those of the original groups, or with `reestimate` of the
 * groups as the loop finds them. The checkpoint stays in natural order, whatever the order of rounding
 * (libstage/solvers/order.h). hqq (Badri and Shaji 2023): scales and zero points from the weights alone, then rounding
 * (quantize/hqq.h). coordinate_descent: sweeps over the codes on what the method left (quantize/descent.h). Activations
 * and KV caches with fixed ranges get their scales (quantize/activations.h). In: blocks, with hessian where a part asks
 * for it; out: the same with codes. A layer that comes in steps (libstage/network/sequential.h) leaves through `steps`
 * each time, and through `out` when it is whole. Memory: one site's Hessian, factor and weights. */
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "libstage/solvers/gptq.h"
#include "libstage/network/sequential.h"
#include "libstage/tensor/operations.h"
#include "stages/quantize/activations.h"
#include "stages/quantize/direct.h"
#include "stages/quantize/estimate.h"
#include "stages/quantize/low_rank.h"
#include "stages/quantize/modelopt.h"
#include "stages/quantize/descent.h"
#include "stages/quantize/scales.h"

struct state {
    struct qp_quantize_options options;
    struct qp_calibrator calibrator;
    struct qp_model model;
};

static const char *const methods[] = {"rtn", "gptq", "hqq", NULL};
static const char *const orders[] = {"natural", "activation", "group", NULL};
static const char *const choices[] = {"auto", "minmax", "mse", "weighted", "hessian", NULL};
static const char *const fits[] = {"auto", "outputs", "weights", "errors", NULL};
static const char *const calibrators[] = {"minmax", "average", "percentile", "entropy", "mse", NULL};
static const struct qp_param params[] = {
    QP_CHOICE("method", struct state, options.method, "rtn", methods,
              "rtn rounds to nearest; gptq spreads each rounding error over the columns that follow; hqq fits scales "
              "and zero points without data"),
    QP_CHOICE("scales", struct state, options.scales, "auto", choices,
              "how scales are chosen among those of shrunken ranges: minmax takes the range, mse the least error of "
              "the weights, weighted weights it by the inputs' squares, hessian takes each group's part of the site "
              "loss; auto keeps those that search chose, else weighted where the inputs are known, else minmax"),
    QP_FLOAT("shrink", struct state, options.shrink, "0.4", 0.05, 1.0, "smallest share of a range that is tried"),
    QP_INT("steps", struct state, options.steps, "40", 1, 1000, "shares of a range that are tried"),
    QP_FLOAT("norm", struct state, options.norm, "3", 1.0, 8.0,
             "scales mse: the power of the error, 2 for squares; 3 did best on INT3 and INT4"),
    QP_FLAG("share", struct state, options.share, "true",
            "FP8 with one scale a tensor: linears that engines run as one matrix get the same scale"),
    QP_FLOAT("damping", struct state, options.damping, "0.01", 1e-6, 1.0,
             "gptq: share of the mean diagonal added to the diagonal of H"),
    QP_INT("block", struct state, options.block, "128", 1, 4096, "gptq: columns between two updates of the rest"),
    QP_CHOICE("order", struct state, options.order, "activation", orders,
              "gptq: columns as they stand, by falling activation, or so with the groups kept whole"),
    QP_FLAG("reestimate", struct state, options.reestimate, "false",
            "gptq: choose the scales of a group anew when its columns are reached; not with order: activation"),
    {.name = "coordinate_descent",
     .type = QP_PARAM_INT,
     .min = 0,
     .max = 1000,
     .help = "sweeps of coordinate descent over the codes, 0 for none; if not given 4 with gptq, else 0",
     .offset = offsetof(struct state, options.descent),
     .was = "polish"},
    {.name = "asymmetric",
     .type = QP_PARAM_FLOAT,
     .fallback = "0",
     .min = 0.0,
     .max = 1.0,
     .help = "coordinate descent: share of the error that earlier layers left which this one makes up for, where that "
             "helps on "
             "text that was held out",
     .offset = offsetof(struct state, options.asymmetric),
     .was = "pull"},
    QP_FLAG("refit", struct state, options.refit, "false",
            "coordinate descent: let the scales descend as well; lowers the site loss most, and can follow few large "
            "inputs too far"),
    QP_INT("low_rank", struct state, options.low_rank, "0", 0, 65536,
           "rank of a correction beside each quantized linear, in the model's dtype, which export writes as a LoRA "
           "adapter; 0: none. Scales of search are not kept then"),
    QP_CHOICE("low_rank_fit", struct state, options.low_rank_fit, "auto", fits,
              "what the correction takes over before the rest is quantized: outputs what moves the outputs most, "
              "weights what leaves the smallest rest (SVDQuant), errors nothing, so that the codes serve without it as "
              "well (LQER); auto takes weights where activations are quantized, outputs elsewhere"),
    QP_INT("low_rank_rounds", struct state, options.low_rank_rounds, "1", 1, 100,
           "how often codes and correction are fitted to each other"),
    QP_CHOICE(
        "activation_calibrator", struct state, calibrator.method, "minmax", calibrators,
        "how the fixed range of activations is chosen: minmax takes the largest, average moving averages of the "
        "samples' least and largest, percentile all but a share, entropy the least divergence, mse the least error"),
    QP_FLOAT("activation_percentile", struct state, calibrator.percentile, "99.99", 50.0, 100.0,
             "percentile: how many of 100 activations lie within the range"),
    QP_FLOAT("activation_norm", struct state, calibrator.norm, "2.4", 1.0, 8.0,
             "mse: the power of the error, 2 for squares"),
    QP_FLOAT("activation_headroom", struct state, calibrator.headroom, "0", 0.0, 28671.0,
             "NVFP4: headroom above the text's activations; the range is this times the 1st percentile of the blocks' "
             "largest, at least their 99.99th (modelopt's nvfp4_act_headroom takes 16384); 0: the largest"),
    {0}};
static const struct qp_need stage_needs[] = {{"hessian", "method", "gptq", NULL},
                                             {"hessian", "coordinate_descent", NULL, NULL},
                                             {"hessian", "scales", "weighted", NULL},
                                             {"hessian", "scales", "hessian", NULL},
                                             {"asymmetry", "asymmetric", NULL, NULL},
                                             {"absmax", NULL, NULL, "static"},
                                             {"histogram", "activation_calibrator", "average", "static"},
                                             {"histogram", "activation_calibrator", "percentile", "static"},
                                             {"histogram", "activation_calibrator", "entropy", "static"},
                                             {"histogram", "activation_calibrator", "mse", "static"},
                                             {"window_min", "activation_calibrator", "average", "static"},
                                             {"window_max", "activation_calibrator", "average", "static"},
                                             {"block_histogram", "activation_headroom", NULL, "static"},
                                             {"samples", "activation_headroom", NULL, "static"},
                                             {"kv_absmax", NULL, NULL, "kv_cache"},
                                             {0}};
static const char *const needs[] = {"weights", NULL};
static const char *const provides[] = {"quantized", NULL};
static const char *const forms[] = {"packed_codes", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .provides = provides, .help = "the same with codes"},
                                         {.name = "steps",
                                          .provides = provides,
                                          .help = "the same as they came, in steps if they did: for feedback",
                                          .optional = true,
                                          .was = "turns"},
                                         {0}};

/* What is left of the site's loss, and how many linears were calibrated asymmetrically, for the log. */
struct outcome {
    int64_t steps;
    int asymmetric;
    double before, after;
};

static enum qp_order order_of(const struct qp_quantize_options *o)
{
    return qp_is(o->order, "activation") ? QP_ORDER_ACTIVATION
           : qp_is(o->order, "group")    ? QP_ORDER_GROUP
                                         : QP_ORDER_NATURAL;
}

/* Makes *solver one that serves the member; tells when more damping than asked for was needed. */
static int open_solver(struct qp_stage *stage, const struct qp_quantize_options *o, const struct qp_site_work *work,
                       const struct qp_member *m, struct qp_gptq **solver, struct qp_error *err)
{
    const struct qp_block *block = work->block;
    double used = o->damping;
    char where[192];
    if (*solver && m->h == work->h && qp_gptq_serves(*solver, m->q.group))
        return 0;
    qp_gptq_close(*solver);
    *solver = NULL;
    qp_layer_name(block->arch, block->layer, block->type->sites[work->site].name, where, sizeof where);
    const struct qp_gptq_columns columns = {.block = o->block, .order = order_of(o), .group = m->q.group};
    int r = m->h ? qp_gptq_open(block->kernels, work->in, m->h, &columns, &used, solver, err)
                 : qp_gptq_open_packed(block->kernels, work->in, &work->packed, &columns, &used, solver, err);
    if (r < 0)
        return qp_wrap(err, "%s", where);
    if (used > o->damping)
        qp_stage_warn(stage, "damping-raised", where, "H is close to singular: damping %g was needed, not %g", used,
                      o->damping);
    return 0;
}

/* Coordinate descent goes on from what GPTQ knows of its loss, if nothing else than that counts. */
static int solve_gptq(const struct qp_quantize_options *o, const struct qp_site_work *work,
                      const struct qp_gptq *solver, struct qp_member *m, struct qp_gptq_rest *rest,
                      struct qp_error *err)
{
    struct qp_rescaling rescaling = {o, work, m};
    bool wanted = qp_descent_sweeps(o) > 0 && !work->asymmetry;
    if (wanted) {
        rest->gradient = qp_new_floats(m->q.rows * m->q.cols, "gradients", err);
        rest->loss = qp_new_array(m->q.rows, sizeof *rest->loss, "losses of rows", err);
        if (!rest->gradient || !rest->loss)
            return QP_ERR_SPACE;
    }
    return qp_gptq_solve(solver, &m->q, m->w, m->codes,
                         &(struct qp_rescale){o->reestimate && m->q.group > 0 ? qp_rescale_group : NULL, &rescaling},
                         wanted ? rest : NULL, err);
}

/* A site's only linear is solved without the Hessian beside its factor. */
static int gptq_member(struct qp_stage *stage, const struct qp_quantize_options *o, struct qp_site_work *work,
                       struct qp_member *m, struct qp_gptq **solver, struct qp_gptq_rest *rest, struct qp_error *err)
{
    int r = open_solver(stage, o, work, m, solver, err);
    if (r == 0)
        r = solve_gptq(o, work, *solver, m, rest, err);
    if (r < 0 || m->h)
        return r;
    qp_gptq_close(*solver);
    *solver = NULL;
    return r == 0 && qp_descent_sweeps(o) > 0 ? qp_site_recall_hessian(work, err) : r;
}

/* Codes for a member that has its scales. */
static int round_member(struct qp_stage *stage, const struct qp_quantize_options *o, struct qp_site_work *work,
                        struct qp_member *m, struct qp_gptq **solver, struct outcome *out, struct qp_error *err)
{
    struct qp_descent_result descended = {0};
    struct qp_gptq_rest rest = {0};
    int r = qp_operations_go_on(err);
    if (r < 0)
        return r;
    if (qp_is(o->method, "gptq")) {
        r = gptq_member(stage, o, work, m, solver, &rest, err);
    } else if (work->exact == QP_EXACT_MODELOPT)
        qp_modelopt_round(work->block->kernels, work->block->arch->dtype, m);
    else
        work->block->kernels->quantize(
            &(struct qp_grouped){&m->q.format, m->q.rows, m->q.cols, m->q.group, m->scale, m->q.zero}, m->w, m->codes);
    if (r == 0 && qp_descent_sweeps(o) > 0)
        r = qp_descend_member(o, work, m, rest.gradient ? &rest : NULL, &descended, err);
    free(rest.gradient);
    free(rest.loss);
    out->steps += descended.steps;
    out->before += descended.before;
    out->after += descended.after;
    out->asymmetric += descended.asymmetric;
    return r;
}

/* Scales, then codes for every member. */
static int round_site(struct qp_stage *stage, const struct state *s, struct qp_site_work *work, struct outcome *out,
                      struct qp_error *err)
{
    struct qp_gptq *solver = NULL;
    int r = qp_site_choose_scales(&s->options, &s->model, work, err);
    for (int i = 0; i < work->count && r == 0; i++)
        r = round_member(stage, &s->options, work, &work->members[i], &solver, out, err);
    qp_gptq_close(solver);
    return r;
}

/* The same beside low-rank corrections, each of which leaves the other less to do, in rounds. */
static int round_corrected(struct qp_stage *stage, const struct state *s, struct qp_site_work *work,
                           struct outcome *out, struct qp_error *err)
{
    int r = 0;
    for (int64_t round = 0; round < s->options.low_rank_rounds && r == 0; round++) {
        for (int i = 0; i < work->count && r == 0; i++)
            r = round == 0 ? qp_low_rank_split(&s->options, work, &work->members[i], err)
                           : qp_low_rank_resplit(work, &work->members[i], err);
        if (r == 0)
            r = round_site(stage, s, work, out, err);
        for (int i = 0; i < work->count && r == 0; i++)
            r = qp_low_rank_correct(work, &work->members[i], err);
    }
    return r;
}

static int put_member(struct qp_stage *stage, struct qp_block *block, const struct qp_member *m, struct qp_error *err)
{
    const struct qp_low_rank *low = &m->low_rank;
    int r = qp_block_set_quantized(block, m->linear, &m->q, qp_stage_allocator(stage), err);
    if (r == 0 && low->rank > 0)
        r = qp_block_set_low_rank(block, m->linear, low->rank, low->a, low->b, qp_stage_allocator(stage), err);
    return r;
}

static int quantize_site(struct qp_stage *stage, const struct state *s, struct qp_block *block, int site,
                         struct qp_error *err)
{
    struct qp_site_work work;
    struct outcome out = {0};
    int r = qp_site_is_direct(&s->options, &s->model, block, site, err);
    if (r > 0)
        return qp_site_round(&s->model, block, site, qp_stage_wants(stage, "packed_codes"), qp_stage_allocator(stage),
                             err);
    if (r < 0)
        return r;
    r = qp_site_open(&s->options, &s->model, block, site, &work, err);
    if (r == 0)
        r = s->options.low_rank > 0 ? round_corrected(stage, s, &work, &out, err)
                                    : round_site(stage, s, &work, &out, err);
    for (int i = 0; i < work.count && r == 0; i++)
        r = put_member(stage, block, &work.members[i], err);
    if (r == 0 && out.steps > 0)
        qp_stage_log(stage, QP_DEBUG,
                     "layer %lld %s: coordinate descent took %lld steps, loss %.3f of that before, %d of %d asymmetric",
                     (long long)block->layer, block->type->sites[site].name, (long long)out.steps,
                     out.after / out.before, out.asymmetric, work.count);
    qp_site_close(&work);
    return r;
}

static int quantize(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    const struct state *s = state;
    if (!qp_block_is_layer(block))
        return 0;
    for (int site = 0; site < block->type->site_count && r == 0; site++) {
        if (qp_block_has_step(block, site))
            r = quantize_site(stage, s, block, site, err);
        if (qp_stage_drops(stage, "hessian"))
            qp_block_drop(block, site, "hessian");
    }
    return r < 0 ? r : qp_quantize_activations(stage, &s->model, &s->calibrator, block, err);
}

/* Steps are for methods that learn from them. */
static int start(struct qp_stage *stage, void *state, struct qp_error *err)
{
    const struct state *s = state;
    const struct qp_quantize_options *o = &s->options;
    (void)stage;
    if (!s->model.sequential || qp_quantize_learns(o))
        return 0;
    return qp_fail(
        err, QP_ERR_INPUT,
        "true_sequential: found method: %s, scales: %s without coordinate descent, which learn nothing from data, so "
        "that its steps would change nothing; expected method: gptq, or coordinate_descent above 0, or scales: "
        "weighted "
        "or hessian",
        o->method, o->scales);
}

/* Takes the unit over. */
static int send(struct qp_stage *stage, const struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    struct qp_unit *whole;
    int r = qp_sequential_whole(&s->model.arch, unit, &whole, err);
    if (r < 0) {
        qp_unit_free(unit);
        return r;
    }
    r = qp_stage_emit(stage, "steps", unit, err);
    return whole ? qp_stage_pass(stage, whole, r, err) : r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    int r = qp_stage_work(stage, s, unit, &s->model, start, quantize, err);
    if (r == 0)
        return send(stage, s, unit, err);
    qp_unit_free(unit);
    return r;
}

static int open_(struct qp_stage *stage, void *state, struct qp_error *err)
{
    const struct qp_quantize_options *o = &((struct state *)state)->options;
    (void)stage;
    if (o->reestimate && qp_is(o->order, "activation"))
        return qp_fail(
            err, QP_ERR_INPUT,
            "reestimate: found order: activation, which takes groups apart; expected order: natural or group");
    if (o->asymmetric > 0.0 && qp_descent_sweeps(o) == 0)
        return qp_fail(err, QP_ERR_INPUT, "asymmetric: expected coordinate_descent above 0, which does it");
    if (o->asymmetric > 0.0 && o->low_rank > 0)
        return qp_fail(
            err, QP_ERR_INPUT,
            "low_rank: found asymmetric above 0 as well, which the correction would undo; expected one of them");
    return 0;
}

static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    (void)err;
    qp_quantize_estimate(task, &((const struct state *)state)->options, out);
    return 0;
}

static const char *const uses[] = {"hessian", NULL};

const struct qp_stage_desc qp_stage_desc = {
    .name = "quantize",
    .summary = "rounds weights to the scheme's number formats (RTN, GPTQ, HQQ), then coordinate descent on the codes",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .needs = stage_needs,
    .forms = forms,
    .sequential = true,
    .estimate = estimate,
    .open = open_,
    .uses = uses,
    .process = process,
};
