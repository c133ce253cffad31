/* search: looks for per-channel scales that make the weights quantize better, keeping what lowers the site loss.
 *
 * A site's loss for scales s is tr(D H Dᵀ) with D = quantize(W diag(s)) diag(s)^-1 - W, summed over its linears: the
 * error of the site's outputs over all calibration tokens, without the tokens. Identity is a candidate, so that no site
 * gets worse. Methods:
 *   awq (Lin et al. 2024, section 3.2): with x[j] the mean of |x[:, j]| and w[j] the mean of |W[:, j]| relative to its
 *     group's largest, for ratio r on a grid s = x^r (plain) or s = x^r / (w^(1 - r) + 1e-4) (duo).
 *   joint: log s = a log x - b log w + c u, u the balance of noise against range (search/balance.h); coordinate descent
 *     over (a, b, c).
 *   clip: no scales of channels.
 * With clip the scale of each group is that of the clipped range which rounds best in the metric of H, inside the
 * search and after it; these scales travel on to quantize. In: blocks with absmean and hessian; out: the same
 * with folds and scales. Memory: one site's weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "stages/search/balance.h"
#include "stages/search/clip.h"
#include "stages/search/estimate.h"
#include "stages/search/joint.h"
#include "stages/search/scales.h"

struct state {
    struct qp_search_options options;
    struct qp_model model;
};

static const char *const methods[] = {"none", "clip", "awq", "joint", NULL};
static const char *const forms[] = {"plain", "duo", "both", NULL};
static const char *const metrics[] = {"diagonal", "block", NULL};
static const struct qp_param params[] = {
    QP_CHOICE("method", struct state, options.method, "none", methods,
              "awq searches activation-aware weight scales; joint descends over more shapes of them; clip leaves "
              "channels as they are and clips ranges alone"),
    QP_INT("grid", struct state, options.grid, "20", 2, 1000, "awq: ratios tried for each form of scale"),
    QP_CHOICE("form", struct state, options.form, "plain", forms,
              "awq: scales from activations (plain), from activations and weights (duo), or both"),
    QP_FLAG("clip", struct state, options.clip, "true",
            "awq, joint: clip the range of each group of weights where that lowers its loss, in the search and after"),
    QP_CHOICE("metric", struct state, options.metric, "diagonal", metrics,
              "clip: errors of a group weighted by the diagonal of H, or by its block of H"),
    {0}};
static const struct qp_need stage_needs[] = {{.what = "absmean", .param = "method", .value = "awq"},
                                             {.what = "absmean", .param = "method", .value = "joint"},
                                             {.what = "hessian", .param = "method"},
                                             {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks with statistics"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same with folds and scales"}, {0}};

static bool is_method(const struct state *s, const char *method)
{
    return strcmp(s->options.method, method) == 0;
}

static enum qp_scale_method scale_method(const struct state *s)
{
    if (!qp_search_clips(&s->options))
        return QP_SCALES_MINMAX;
    return strcmp(s->options.metric, "block") == 0 ? QP_SCALES_HESSIAN : QP_SCALES_WEIGHTED;
}

static int try_ratio(float ratio, const struct profile *p, struct trial *t, bool duo, struct qp_error *err)
{
    double loss;
    propose_awq(p, t, ratio, duo ? 1.0f - ratio : 0.0f);
    return trial_judge(t, &loss, err);
}

/* A good candidate found early makes short work of the others: every point of the grid comes once, from coarse to fine.
 */
static int try_grid(const struct state *s, const struct profile *p, struct trial *t, bool duo, struct qp_error *err)
{
    static const struct {
        int64_t from, step;
    } passes[] = {{4, 8}, {2, 4}, {1, 2}, {0, 8}};
    int64_t first = duo ? 0 : 1; /* plain at ratio 0 is identity */
    int r = 0;
    for (size_t k = 0; k < sizeof passes / sizeof *passes; k++)
        for (int64_t i = first + passes[k].from; i < s->options.grid && r == 0; i += passes[k].step)
            r = try_ratio((float)i / (float)(s->options.grid - 1), p, t, duo, err);
    return r;
}

static int search_awq(const struct state *s, const struct profile *p, struct trial *t, struct qp_error *err)
{
    int r = strcmp(s->options.form, "duo") != 0 ? try_grid(s, p, t, false, err) : 0;
    return r == 0 && strcmp(s->options.form, "plain") != 0 ? try_grid(s, p, t, true, err) : r;
}

/* Finds scales for one site; *kept is the loss that is left, as a share of identity's. */
static int find_scales(const struct state *s, const struct qp_block *block, int site, struct trial *t, double *kept,
                       struct qp_error *err)
{
    struct profile p = {0};
    double identity;
    int r = trial_judge(t, &identity, err);
    if (r == 0)
        r = profile_open(&p, t, block, site, err);
    bool joint = is_method(s, "joint");
    if (r == 0 && joint)
        r = balance_scales(t, &block->type->sites[site], p.u, err);
    if (r == 0)
        r = joint ? search_joint(&p, t, err) : search_awq(s, &p, t, err);
    profile_close(&p);
    if (r == 0)
        *kept = identity > 0.0 ? t->best_loss / identity : 1.0;
    return r;
}

static int search_site(struct qp_stage *stage, const struct state *s, struct qp_block *block, int site,
                       struct qp_error *err)
{
    struct trial t;
    double kept = 1.0;
    int r = trial_open(&t, &s->model, block, site, scale_method(s), err);
    if (r == 0)
        r = find_scales(s, block, site, &t, &kept, err);
    if (r == 0 && kept < 1.0)
        r = qp_block_fold(block, site, t.best, err);
    trial_close(&t);
    qp_stage_log(stage, QP_DEBUG, "layer %lld %s: loss %.4f of that without scales", (long long)block->layer,
                 block->type->sites[site].name, kept);
    return r;
}

static int search_layer(struct qp_stage *stage, const struct state *s, struct qp_block *block, struct qp_error *err)
{
    qp_auto_free int *sites = qp_new_array(block->type->site_count, sizeof *sites, "a list of sites", err);
    if (!sites)
        return QP_ERR_SPACE;
    int r = 0, count = qp_model_fold_sites(&s->model, block->layer, sites);
    for (int i = 0; i < count && r == 0; i++)
        r = search_site(stage, s, block, sites[i], err);
    return r;
}

static int search(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    const struct state *s = state;
    int r = 0;
    if (!qp_block_is_layer(block))
        return 0;
    if (!is_method(s, "clip"))
        r = search_layer(stage, s, block, err);
    for (int site = 0; qp_search_clips(&s->options) && site < block->type->site_count && r == 0; site++)
        if (qp_model_quantizes_site(&s->model, block->layer, site))
            r = clip_site(&s->model, block, site, scale_method(s), qp_stage_allocator(stage), err);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (is_method(s, "none"))
        return qp_stage_emit(stage, NULL, unit, err);
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, search, err);
}

static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    (void)err;
    qp_search_estimate(task, &((const struct state *)state)->options, out);
    return 0;
}

static const char *const uses[] = {NULL};

const struct qp_stage_desc qp_stage_desc = {
    .name = "search",
    .summary = "searches weight scales and clipped ranges that lower the site loss (AWQ)",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .needs = stage_needs,
    .estimate = estimate,
    .uses = uses,
    .process = process,
};
