#include "stages/allocate/measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/solvers/gptq.h"
#include "libstage/solvers/quality.h"
#include "libstage/solvers/scales.h"
#include "libstage/solvers/workspace.h"
#include "libstage/tensor/operations.h"

#define SMALLEST_RANGE 0.5f /* scales are searched from the whole range of a group down to this share */
#define RANGES 16
#define DAMPING 0.01 /* of GPTQ, as in Frantar et al. 2023 */
#define COLUMNS 128  /* between two of its updates */

/* A layer at work. */
struct work {
    struct qp_table *table;
    const struct qp_block *block;
    const struct qp_kernels *kernels;
    struct qp_layer layer;
    struct qp_probes *probes;
    bool gptq;              /* losses are those of GPTQ, not of rounding to nearest */
    struct qp_gptq *solver; /* of the group at work, with gptq */
    double tokens;          /* of the Hessians */
    float **probe;          /* [linears] weights as the probe has them, where a stream is to start */
    int64_t *rows_seen;     /* [sites] */
};

static const struct qp_linear *desc_of(const struct work *w, int linear)
{
    return &w->block->type->linears[linear];
}

/* ---- losses of the weights ---- */

static float absmax(int64_t count, const float *v)
{
    float largest = 0.0f;
    for (int64_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(v[i]));
    return largest;
}

/* Codes for the scales that are there. */
static int set_codes(const struct work *w, const struct qp_gptq *solver, struct qp_workspace *d,
                     const struct qp_number_format *format, int64_t group, const float *weight, struct qp_error *err)
{
    struct qp_quantized q = {.format = *format, .rows = d->rows, .cols = d->in, .group = group, .scale = d->scale};
    if (!solver) {
        w->kernels->quantize(&(struct qp_grouped){format, d->rows, d->in, group, d->scale, d->zero}, weight, d->codes);
        return 0;
    }
    q.zero = format->symmetric ? NULL : d->zero;
    return qp_gptq_solve(solver, &q, weight, d->codes, NULL, NULL, err);
}

/* A linear's weights, the Hessian of its inputs, and the largest weight of the group's linears together, which share a
 * global scale. */
struct weighed {
    const float *weight, *h;
    float largest;
};

/* d->q = w by GPTQ, without a solver rounded to nearest, with the scales of least error in the metric of
 * diag(h). */
static int round_weights(const struct work *w, const struct qp_gptq *solver, struct qp_workspace *d,
                         const struct qp_quant_spec *spec, const struct weighed *m, struct qp_error *err)
{
    struct qp_number_format format = spec->format;
    const float *weight = m->weight, *h = m->h;
    if (format.scale_dtype == QP_F8_E4M3)
        format.global = qp_global_scale(m->largest, spec->four_over_six);
    int64_t group = qp_spec_group(spec, d->in);
    struct qp_scale_choice choice = {.method = QP_SCALES_WEIGHTED, .h = h, .shrink = SMALLEST_RANGE, .steps = RANGES};
    int r = qp_choose_scales(w->kernels, &(struct qp_unscaled){spec, &format, d->rows, d->in, weight}, &choice,
                             d->scale, d->zero, err);
    if (r == 0)
        r = set_codes(w, solver, d, &format, group, weight, err);
    if (r < 0)
        return r;
    w->kernels->dequantize(&(struct qp_grouped){&format, d->rows, d->in, group, d->scale, d->zero}, d->codes, d->q);
    return 0;
}

/* Of d->q, which becomes what quantization changed. */
static double loss_of(const struct work *w, struct qp_workspace *d, const float *weight, const float *h)
{
    qp_difference(d->rows * d->in, d->q, weight, d->q);
    return qp_site_loss(w->kernels, d->rows, d->in, d->q, h, d->scratch);
}

/* Keeps the probe's weights for the stream that will start with them, and counts their loss. */
static int set_probe(struct work *w, struct qp_group *g, int linear, struct qp_workspace *d, const float *h,
                     float largest, struct qp_error *err)
{
    const struct qp_quant_spec *spec = &w->table->budget->candidates[g->probe].scheme.weights;
    const float *weight = w->layer.weight[linear];
    if (!spec->enabled)
        return 0;
    w->probe[linear] = qp_new_floats(d->rows * d->in, "a linear's quantized weights", err);
    int r =
        w->probe[linear] ? round_weights(w, NULL, d, spec, &(struct weighed){weight, h, largest}, err) : QP_ERR_SPACE;
    if (r < 0)
        return r;
    memcpy(w->probe[linear], d->q, (size_t)(d->rows * d->in) * sizeof(float));
    g->probe_loss += loss_of(w, d, weight, h);
    return 0;
}

static int measure_linear(struct work *w, struct qp_group *g, int linear, const float *h, float largest,
                          struct qp_error *err)
{
    const struct qp_budget *budget = w->table->budget;
    const float *weight = w->layer.weight[linear];
    int64_t rows = desc_of(w, linear)->out, in = desc_of(w, linear)->in;
    struct qp_workspace d;
    int r = qp_workspace_open(rows, in, &d, err);
    if (r == 0)
        g->energy += qp_site_loss(w->kernels, rows, in, weight, h, d.scratch);
    for (size_t c = 0; c < budget->count && r == 0; c++) {
        const struct qp_quant_spec *spec = &budget->candidates[c].scheme.weights;
        if (!spec->enabled || !g->fits[c])
            continue;
        r = qp_operations_go_on(err);
        if (r == 0)
            r = round_weights(w, w->solver, &d, spec, &(struct weighed){weight, h, largest}, err);
        if (r == 0)
            g->weight_loss[c] += loss_of(w, &d, weight, h);
    }
    if (r == 0 && w->probes && w->probes->perturbed)
        r = set_probe(w, g, linear, &d, h, largest, err);
    qp_workspace_close(&d);
    return r;
}

static int open_solver(struct work *w, const struct qp_group *g, int64_t in, const float *h, struct qp_error *err)
{
    char name[256];
    double damping = DAMPING;
    if (!w->gptq)
        return 0;
    int r = qp_gptq_open(w->kernels, in, h,
                         &(struct qp_gptq_columns){.block = COLUMNS, .order = QP_ORDER_ACTIVATION, .group = in},
                         &damping, &w->solver, err);
    return r < 0 ? qp_wrap(err, "%s", qp_group_name(w->table, g, name, sizeof name)) : 0;
}

static int measure_group(struct work *w, struct qp_group *g, struct qp_error *err)
{
    int64_t in = w->block->type->sites[g->site].in;
    float *h = qp_new_floats(in * in, "a Hessian", err), largest = 0.0f;
    int r = h ? qp_block_hessian(w->block, g->site, h, err) : QP_ERR_SPACE;
    if (r == 0)
        r = open_solver(w, g, in, h, err);
    for (int m = 0; m < g->count; m++)
        largest = fmaxf(largest, absmax(desc_of(w, g->members[m])->out * in, w->layer.weight[g->members[m]]));
    for (int m = 0; m < g->count && r == 0; m++)
        r = measure_linear(w, g, g->members[m], h, largest, err);
    qp_gptq_close(w->solver);
    w->solver = NULL;
    free(h);
    return r;
}

/* ---- losses of the inputs ---- */

/* Sum over the group's members of |D W^T|^2, D[rows, in] what quantization changes in x. */
static int input_loss(const struct work *w, struct qp_group *g, size_t candidate, const float *x, int64_t rows,
                      int64_t in, struct qp_error *err)
{
    const struct qp_quant_spec *spec = &w->table->budget->candidates[candidate].scheme.activations;
    struct qp_number_format format = spec->format;
    if (qp_operations_go_on(err) < 0)
        return err->code;
    if (format.scale_dtype == QP_F8_E4M3)
        format.global = qp_global_scale(absmax(rows * in, x), false);
    float *d = qp_new_floats(rows * in, "a site's input", err);
    if (!d)
        return QP_ERR_SPACE;
    memcpy(d, x, (size_t)(rows * in) * sizeof *d);
    w->kernels->fake_quantize(&format, rows, in, qp_spec_group(spec, in), d);
    qp_difference(rows * in, d, x, d);
    int r = 0;
    for (int m = 0; m < g->count && r == 0; m++) {
        int l = g->members[m];
        int64_t n = desc_of(w, l)->out;
        float *y = qp_new_floats(rows * n, "a linear's output", err);
        if (!y)
            r = QP_ERR_SPACE;
        if (y)
            w->kernels->gemm(
                &(struct qp_gemm){false, true, rows, n, in, 1.0f, d, in, w->layer.weight[l], in, 0.0f, y, n});
        for (int64_t i = 0; y && i < rows * n; i++)
            g->input_loss[candidate] += (double)y[i] * y[i];
        free(y);
    }
    free(d);
    return r;
}

/* Tap of the clean stream's forward. */
static int see_input(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    struct work *w = context;
    struct qp_group *g = qp_table_find(w->table, w->block->layer, site);
    int r = 0;
    w->rows_seen[site] += rows;
    for (size_t c = 0; g && c < w->table->budget->count && r == 0; c++) {
        const struct qp_quant_spec *spec = &w->table->budget->candidates[c].scheme.activations;
        if (spec->enabled && g->fits[c])
            r = input_loss(w, g, c, x, rows, in, err);
    }
    return r;
}

/* Puts the losses of the few tokens seen on the scale of the Hessians' many. */
static void scale_input_losses(struct work *w)
{
    for (int site = 0; site < w->block->type->site_count; site++) {
        struct qp_group *g = qp_table_find(w->table, w->block->layer, site);
        for (size_t c = 0; g && c < w->table->budget->count; c++)
            g->input_loss[c] *= w->tokens / (double)w->rows_seen[site];
    }
}

/* ---- streams ---- */

static float *states_at(const struct qp_probes *p, size_t index)
{
    return p->states.x + (int64_t)index * p->windows.count * p->windows.length * p->states.hidden;
}

/* Moves `count` streams from `first` on through the layer. */
static int move(const struct work *w, size_t first, size_t count, const struct qp_taps *taps, struct qp_error *err)
{
    struct qp_probes *p = w->probes;
    return qp_layer_forward(
        &w->layer, &(struct qp_sequences){(int64_t)count * p->windows.count, p->windows.length, states_at(p, first)},
        &p->text.rotations, p->text.workspace, taps, err);
}

/* A stream in which just this group is the probe's: it starts from the clean one. */
static int start_states(struct work *w, struct qp_group *g, struct qp_error *err)
{
    struct qp_probes *p = w->probes;
    size_t bytes = (size_t)(p->windows.count * p->windows.length * p->states.hidden) * sizeof(float);
    float *kept[QP_SITE_LINEARS_MAX];
    for (int m = 0; m < g->count; m++) {
        int l = g->members[m];
        kept[m] = w->layer.weight[l];
        if (w->probe[l])
            w->layer.weight[l] = w->probe[l];
    }
    memcpy(states_at(p, p->used), states_at(p, 0), bytes);
    int r = move(w, p->used, 1, NULL, err);
    for (int m = 0; m < g->count; m++)
        w->layer.weight[g->members[m]] = kept[m];
    p->owners[p->used++] = g;
    return r;
}

static int move_states(struct work *w, struct qp_error *err)
{
    struct qp_probes *p = w->probes;
    size_t before = p->used;
    int r = 0;
    for (size_t g = 0; g < w->table->count && p->perturbed && r == 0; g++)
        if (w->table->groups[g].layer == w->block->layer)
            r = start_states(w, &w->table->groups[g], err);
    if (r == 0)
        r = move(w, 0, 1, &(struct qp_taps){.site = see_input, .context = w}, err);
    if (r == 0 && before > 1)
        r = move(w, 1, before - 1, NULL, err);
    scale_input_losses(w);
    return r;
}

int qp_measure_layer(struct qp_table *table, const struct qp_block *block, bool gptq, struct qp_probes *probes,
                     struct qp_error *err)
{
    struct work w = {.table = table, .block = block, .kernels = block->kernels, .gptq = gptq, .probes = probes};
    w.tokens = json_number_value(json_object_get(block->unit->attrs, "tokens"));
    if (w.tokens <= 0.0)
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld says not of how many `tokens` its statistics are",
                       (long long)block->unit->seq);
    size_t linears = (size_t)block->type->linear_count;
    qp_auto_free float **probe = w.probe = calloc(linears, sizeof *probe);
    qp_auto_free int64_t *seen = w.rows_seen = calloc((size_t)block->type->site_count, sizeof *seen);
    if (!probe || !seen)
        return qp_fail_memory(err, linears * sizeof *probe, "the losses of a layer");
    int r = qp_layer_load(block, QP_TRANSFORMED, NULL, &w.layer, err);
    if (r < 0)
        return r;
    for (size_t g = 0; g < table->count && r == 0; g++)
        if (table->groups[g].layer == block->layer)
            r = measure_group(&w, &table->groups[g], err);
    if (r == 0 && probes)
        r = move_states(&w, err);
    for (size_t l = 0; l < linears; l++)
        free(probe[l]);
    qp_layer_free(&w.layer);
    return r;
}
