#include "stages/smooth/estimate.h"

#include <string.h>

/* Whether a site gets scales. */
static bool is_chosen(const struct qp_task *t, const struct qp_smooth_options *o, int64_t layer, int site)
{
    enum qp_fold_kind fold = qp_layer_type(t->arch, layer)->sites[site].fold;
    return (fold == QP_FOLD_NORM || (fold == QP_FOLD_ROWS && strcmp(o->sites, "all") == 0)) &&
           qp_task_quantizes_site(t, layer, site);
}

/* With a grid the outputs of up to 256 samples, as they are and for each alpha and none. */
static void add_layer(const struct qp_task *t, const struct qp_smooth_options *o, int64_t layer, struct qp_work *add)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double grid = strcmp(o->method, "smoothquant") == 0 ? (double)o->grid : 0;
    int64_t tokens = qp_task_tokens(t), samples = tokens > 0 && tokens < 256 ? tokens : 256;
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        if (!is_chosen(t, o, layer, d->site))
            continue;
        add->bytes_read += (1 + (grid > 0)) * qp_task_stored(t, (double)d->out * (double)d->in);
        if (grid > 0 && qp_task_spec(t, layer, l))
            add->operations[QP_WORK_GEMM] += (2 + grid) * qp_gemm_operations(samples, d->out, d->in);
    }
}

/* The largest linear; with a grid all linears of a site and their outputs, and copies of the largest. */
static double site_bytes(const struct qp_task *t, const struct qp_smooth_options *o, int64_t layer, int site)
{
    const struct qp_layer_type *type = qp_layer_type(t->arch, layer);
    double tokens = (double)qp_task_tokens(t), samples = tokens > 0 && tokens < 256 ? tokens : 256;
    double sum = 0, most = 0, in = (double)type->sites[site].in;
    bool grid = o->grid > 0 && strcmp(o->method, "smoothquant") == 0;
    for (int l = 0; l < type->linear_count; l++) {
        const struct qp_linear *d = &type->linears[l];
        double weights = (double)d->out * (double)d->in;
        if (d->site != site)
            continue;
        sum += 4 * weights + 4 * samples * (double)d->out;
        most = weights > most ? weights : most;
    }
    return grid ? sum + 4 * 2 * samples * in + (4 + 1) * most : 4 * most;
}

void qp_smooth_estimate(const struct qp_task *task, const struct qp_smooth_options *options, struct qp_estimate *out)
{
    bool idle = strcmp(options->method, "none") == 0;
    out->work_known = out->memory_known = true;
    out->provides[0] = idle ? NULL : "folds";
    for (int64_t layer = 0; !idle && layer < task->arch->layers; layer++) {
        add_layer(task, options, layer, &out->work);
        for (int site = 0; site < qp_layer_type(task->arch, layer)->site_count; site++) {
            double held = is_chosen(task, options, layer, site) ? site_bytes(task, options, layer, site) : 0;
            out->block_bytes = held > out->block_bytes ? held : out->block_bytes;
        }
    }
}
