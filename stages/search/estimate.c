#include "stages/search/estimate.h"

#include <string.h>

#include "libstage/solvers/quality.h"

static bool is(const char *text, const char *value)
{
    return strcmp(text, value) == 0;
}

bool qp_search_clips(const struct qp_search_options *options)
{
    return options->clip || is(options->method, "clip");
}

/* Trials a site gets at least: no scales, then AWQ's grids, or the four starts of joint and, for each of three axes and
 * three widths of step, one step in either direction. Where rows have scales of their own, a trial can be over after
 * the first of 16 slices of them. */
static double trials_of(const struct qp_search_options *o, const struct qp_quant_spec *spec)
{
    double grid = (double)o->grid, others;
    bool sliced = spec->granularity != QP_PER_TENSOR && spec->granularity != QP_PER_BLOCK;
    if (is(o->method, "joint"))
        others = 4 + 3 * 3 * 2;
    else
        others = (is(o->form, "duo") ? 0 : grid - 1) + (is(o->form, "plain") ? 0 : grid);
    return 1 + others / (sliced ? 16 : 1);
}

/* A trial of a linear rounds it, by clipped ranges or as it is, and takes tr(D H Dᵀ). */
static void add_trials(const struct qp_task *t, const struct qp_search_options *o, const struct qp_quant_spec *spec,
                       const struct qp_linear *d, bool folds, struct qp_work *add)
{
    double trials = folds && !is(o->method, "clip") ? trials_of(o, spec) : 0;
    bool clips = qp_search_clips(o);
    struct qp_work candidates = {0};
    struct qp_scale_sweep sweep = {0.4, 25, is(o->metric, "block")};
    if (clips)
        qp_estimate_scales(spec, d->out, d->in, &sweep, &candidates);
    add->operations[QP_WORK_SEARCH] += (trials + clips) * candidates.operations[QP_WORK_SEARCH];
    add->operations[QP_WORK_GEMM] += trials * qp_site_loss_operations(d->out, d->in);
    add->bytes_read += ((trials > 0) + clips) * qp_task_stored(t, (double)d->out * (double)d->in);
    if (clips)
        add->bytes_written += 4 * (double)qp_scale_count(d->out, d->in, qp_spec_group(spec, d->in));
}

static void add_layer(const struct qp_task *t, const struct qp_search_options *o, int64_t layer, struct qp_work *add)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    for (int site = 0; site < type->site_count; site++)
        if (qp_task_quantizes_site(t, layer, site))
            add->bytes_read +=
                ((type->sites[site].fold != QP_FOLD_NONE) + qp_search_clips(o)) * qp_task_hessian_bytes(t, layer, site);
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        const struct qp_quant_spec *spec = qp_task_spec(t, layer, l);
        if (spec)
            add_trials(t, o, spec, d, type->sites[d->site].fold != QP_FOLD_NONE, add);
    }
}

/* ---- memory ---- */

/* Where a trial looks at slices of rows, its copies are of one of them; clipping looks at all rows. */
static double copies_of(const struct qp_search_options *o, const struct qp_quant_spec *spec, double weights)
{
    bool sliced = spec->granularity != QP_PER_TENSOR && spec->granularity != QP_PER_BLOCK;
    double clip = qp_search_clips(o) ? (4 + 1) * weights : 0, trial = (4 + 4 + 1) * weights / (sliced ? 16 : 1);
    return clip > trial ? clip : trial;
}

/* The site's weights, its Hessian, by blocks scaled as well, and copies of its largest linear. */
static double site_bytes(const struct qp_task *t, const struct qp_search_options *o, int64_t layer, int site)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double in = (double)type->sites[site].in, bytes = 0, most = 0;
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        const struct qp_quant_spec *spec = d->site == site ? qp_task_spec(t, layer, l) : NULL;
        double weights = (double)d->out * (double)d->in, copies = spec ? copies_of(o, spec, weights) : 0;
        bytes += spec ? 4 * weights : 0;
        most = copies > most ? copies : most;
    }
    return bytes > 0 ? bytes + most + (is(o->metric, "block") ? 2 : 1) * 4 * in * in : 0;
}

/* Scales that clipping chose; folds are small. */
static double emitted_bytes(const struct qp_task *t, const struct qp_search_options *o, int64_t layer)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double bytes = 0;
    for (int l = 0; qp_search_clips(o) && l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        const struct qp_quant_spec *spec = qp_task_spec(t, layer, l);
        if (spec)
            bytes +=
                (spec->format.symmetric ? 4 : 5) * (double)qp_scale_count(d->out, d->in, qp_spec_group(spec, d->in));
    }
    return bytes;
}

void qp_search_estimate(const struct qp_task *task, const struct qp_search_options *options, struct qp_estimate *out)
{
    bool idle = is(options->method, "none");
    out->work_known = out->memory_known = true;
    if (!idle && !is(options->method, "clip"))
        out->provides[0] = "folds";
    if (!idle && qp_search_clips(options))
        out->provides[out->provides[0] != NULL] = "scales";
    for (int64_t layer = 0; !idle && layer < task->arch->layers; layer++) {
        double emitted = emitted_bytes(task, options, layer);
        add_layer(task, options, layer, &out->work);
        out->emitted_bytes = emitted > out->emitted_bytes ? emitted : out->emitted_bytes;
        for (int site = 0; site < qp_layer_type(task->arch, layer)->site_count; site++) {
            double held = site_bytes(task, options, layer, site);
            out->block_bytes = held > out->block_bytes ? held : out->block_bytes;
        }
    }
}
