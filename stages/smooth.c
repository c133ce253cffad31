/* smooth: moves the difficulty of quantizing activations into the weights, by per-channel scales that the operation
 * before a site absorbs. For each site, with a[j] = max|x[j]| and w[j] = max|W[:, j]| over the linears that read it:
 *   smoothquant (Xiao et al. 2023, equation 4)        s[j] = a[j]^alpha / w[j]^(1 - alpha), at least 1e-5
 *   log-equalization (llm-compressor, SmoothQuantModifier)     s[j] = a[j] / log2(2 + a[j]), at least 1e-5
 *   W[:, j] *= s[j], and the gain of the norm, or the rows of v or up, /= s[j].
 * grid: alphas from 0 to 1 are tried on samples of the site's inputs, both sides rounded as the scheme says, and the
 * best is taken; no scales at all are a candidate. In: blocks with absmax (and samples); out: the same with folds.
 * Memory: one linear's weights; with a grid those of a site and its outputs for the samples. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "stages/smooth/estimate.h"
#include "stages/smooth/outputs.h"

#define SMALLEST_SCALE 1e-5f /* of the original implementation, for scales and for weights' maxima */

struct state {
    struct qp_smooth_options options;
    struct qp_model model;
};

static const char *const methods[] = {"none", "smoothquant", "log-equalization", NULL};
static const char *const site_choices[] = {"norms", "all", NULL};
static const struct qp_param params[] = {
    QP_CHOICE("method", struct state, options.method, "none", methods,
              "smoothquant weighs activations against weights by alpha, log-equalization takes activations alone"),
    QP_FLOAT("alpha", struct state, options.alpha, "0.5", 0.0, 1.0,
             "migration strength: 0 leaves all difficulty in the activations, 1 moves all into the weights"),
    QP_INT("grid", struct state, options.grid, "0", 0, 1000,
           "smoothquant: how many alphas from 0 to 1 are tried for each site in place of the one; 0 for none"),
    QP_CHOICE("sites", struct state, options.sites, "norms", site_choices,
              "norms scales the inputs of q, k, v and of gate, up; all those of o and down as well"),
    {0}};
static const struct qp_need stage_needs[] = {
    {.what = "absmax", .param = "method"}, {.what = "samples", .param = "grid"}, {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks with statistics"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same with folds"}, {0}};

/* columns[j] = max(columns[j], max over rows of |w[:, j]|) over all linears of the site. */
static int weight_maxima(const struct qp_block *block, int site, int64_t in, float *columns, struct qp_error *err)
{
    for (int64_t j = 0; j < in; j++)
        columns[j] = 0.0f;
    for (int i = 0; i < block->type->linear_count; i++) {
        if (block->type->linears[i].site != site)
            continue;
        int64_t out = block->type->linears[i].out;
        float *w = qp_new_floats(out * in, "a linear's weights", err);
        int r = w ? qp_block_weight(block, i, true, w, err) : QP_ERR_SPACE;
        if (r == 0)
            block->kernels->column_stats(out, in, w, columns, NULL, NULL, NULL);
        free(w);
        if (r < 0)
            return r;
    }
    return 0;
}

/* scale = what the method makes of the maxima of activations and weights. */
static void propose(const struct state *s, double alpha, int64_t in, const float *a, const float *columns, float *scale)
{
    bool logarithmic = strcmp(s->options.method, "log-equalization") == 0;
    for (int64_t j = 0; j < in; j++) {
        float w = fmaxf(columns[j], SMALLEST_SCALE);
        float v = logarithmic ? a[j] / log2f(2.0f + a[j]) : powf(a[j], (float)alpha) / powf(w, 1.0f - (float)alpha);
        scale[j] = fmaxf(v, SMALLEST_SCALE);
    }
}

/* Of a site's inputs and of its weights' columns. */
struct maxima {
    const float *inputs, *columns;
};

/* Tries alphas from 0 to 1; *alpha is the best of them, negative when no scales are better still. */
static int search_alpha(const struct state *s, const struct qp_block *block, int site, const struct maxima *m,
                        float *scale, double *alpha, struct qp_error *err)
{
    struct outputs o;
    double best = 0.0, loss;
    int r = outputs_open(&o, &s->model, block, site, err);
    for (int64_t j = 0; r == 0 && j < o.in; j++)
        scale[j] = 1.0f;
    if (r == 0)
        r = outputs_loss(&o, scale, &best, err);
    *alpha = -1.0;
    for (int64_t i = 0; r == 0 && i < s->options.grid; i++) {
        double candidate = (double)i / (double)(s->options.grid - 1);
        propose(s, candidate, o.in, m->inputs, m->columns, scale);
        qp_share_heads(&block->type->sites[site], scale);
        r = outputs_loss(&o, scale, &loss, err);
        if (r == 0 && loss < best) {
            best = loss;
            *alpha = candidate;
        }
    }
    outputs_close(&o);
    return r;
}

static int smooth_site(struct qp_stage *stage, const struct state *s, struct qp_block *block, int site,
                       struct qp_error *err)
{
    int64_t in = block->type->sites[site].in;
    double alpha = s->options.alpha;
    qp_auto_free float *scale = qp_new_floats(3 * in, "smoothing scales", err);
    if (!scale)
        return QP_ERR_SPACE;
    float *a = scale + in, *columns = a + in;
    int r = qp_block_stat(block, site, "absmax", a, err);
    if (r == 0)
        r = weight_maxima(block, site, in, columns, err);
    if (r == 0 && s->options.grid > 0 && strcmp(s->options.method, "smoothquant") == 0) {
        r = search_alpha(s, block, site, &(struct maxima){a, columns}, scale, &alpha, err);
        qp_stage_log(stage, QP_DEBUG, "layer %lld %s: alpha %.2f", (long long)block->layer,
                     block->type->sites[site].name, alpha);
    }
    if (r < 0 || alpha < 0.0)
        return r;
    propose(s, alpha, in, a, columns, scale);
    return qp_block_fold(block, site, scale, err);
}

static int smooth(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    const struct state *s = state;
    bool all = strcmp(s->options.sites, "all") == 0;
    if (!qp_block_is_layer(block))
        return 0;
    qp_auto_free int *sites = qp_new_array(block->type->site_count, sizeof *sites, "a list of sites", err);
    if (!sites)
        return QP_ERR_SPACE;
    int r = 0, count = qp_model_fold_sites(&s->model, block->layer, sites);
    for (int i = 0; i < count && r == 0; i++)
        if (all || block->type->sites[sites[i]].fold == QP_FOLD_NORM)
            r = smooth_site(stage, s, block, sites[i], err);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (s->options.grid == 1)
        return qp_stage_pass(stage, unit, qp_fail(err, QP_ERR_INPUT, "grid: 1 is no choice; give 2 or more, or 0"),
                             err);
    if (strcmp(s->options.method, "none") == 0)
        return qp_stage_emit(stage, NULL, unit, err);
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, smooth, err);
}

static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    (void)err;
    qp_smooth_estimate(task, &((const struct state *)state)->options, out);
    return 0;
}

static const char *const uses[] = {NULL};

const struct qp_stage_desc qp_stage_desc = {
    .name = "smooth",
    .summary = "balances activations against weights (SmoothQuant, log equalization)",
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
