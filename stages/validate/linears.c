#include "stages/validate/linears.h"

#include <math.h>
#include <stdlib.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/solvers/quality.h"
#include "libstage/solvers/scales.h"
#include "libstage/solvers/workspace.h"

#define NOISE 1e-4 /* of a site loss from float32 products, relative */
#define NEARER 0.5 /* of two squared distances, to be no accident of rounding */

/* The linears of a block. */
struct judging {
    struct qp_stage *stage;
    const struct qp_model *model;
    const struct qp_block *block;
    json_t *linears; /* for the report */
    json_t *astray;  /* object: names of those whose codes are of other weights */
};

static double loss_of_difference(const struct qp_kernels *k, struct qp_workspace *d, const float *h)
{
    qp_difference(d->rows * d->in, d->q, d->w, d->q);
    return qp_site_loss(k, d->rows, d->in, d->q, h, d->scratch);
}

/* What rounding the same weights to nearest with the scales of their ranges would lose, below the same global scale. */
static int loss_of_rounding(const struct qp_kernels *k, struct qp_workspace *d, const struct qp_quant_spec *spec,
                            const struct qp_quantized *q, const float *h, double *loss, struct qp_error *err)
{
    struct qp_scale_choice range = {.method = QP_SCALES_MINMAX};
    int r = qp_choose_scales(k, &(struct qp_unscaled){spec, &q->format, d->rows, d->in, d->w}, &range, d->scale,
                             d->zero, err);
    if (r < 0)
        return r;
    k->quantize(&(struct qp_grouped){&q->format, d->rows, d->in, q->group, d->scale, d->zero}, d->w, d->codes);
    k->dequantize(&(struct qp_grouped){&q->format, d->rows, d->in, q->group, d->scale, d->zero}, d->codes, d->q);
    *loss = loss_of_difference(k, d, h);
    return 0;
}

/* Fills one element of the report from d->w and d->q, which is lost; the SQNR in dB is capped, since JSON has no
 * infinity for a lossless linear. */
static int judge(const struct qp_kernels *k, struct qp_workspace *d, const struct qp_quant_spec *spec,
                 const struct qp_quantized *q, const float *h, json_t *entry, struct qp_error *err)
{
    double rounding;
    int r = 0;
    json_object_set_new(entry, "sqnr_db", json_real(fmin(qp_sqnr_db(d->rows * d->in, d->w, d->q), 999.0)));
    if (!h)
        return 0;
    json_object_set_new(entry, "site_loss", json_real(loss_of_difference(k, d, h)));
    r = loss_of_rounding(k, d, spec, q, h, &rounding, err);
    if (r == 0)
        json_object_set_new(entry, "site_loss_rtn", json_real(rounding));
    return r;
}

static double squared_distance(int64_t count, const float *a, const float *b)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sum;
}

/* Whether codes are of the weights as they are in the checkpoint, though a fold touches them: they are clearly nearer
 * to those. *plain and *transformed: the squared distances. */
static int ignores_folds(const struct qp_block *block, int linear, struct qp_workspace *d, double *plain,
                         double *transformed, struct qp_error *err)
{
    const struct qp_tensor *stored;
    int r = qp_block_stored_weight(block, linear, &stored, err);
    if (r != 0)
        return r < 0 ? r : 0;
    r = qp_block_weight(block, linear, false, d->scratch, err);
    *plain = squared_distance(d->rows * d->in, d->q, d->scratch);
    *transformed = squared_distance(d->rows * d->in, d->q, d->w);
    return r < 0 ? r : *plain < NEARER * *transformed;
}

/* Its site loss says nothing of the method then. */
static int check_folds(const struct judging *j, int linear, struct qp_workspace *d, const char *name,
                       struct qp_error *err)
{
    double plain, transformed;
    int r = ignores_folds(j->block, linear, d, &plain, &transformed, err);
    if (r <= 0)
        return r;
    json_object_set_new(j->astray, name, json_true());
    qp_stage_warn(j->stage, "folds-ignored", name,
                  "its codes are of the weights without the folds of smooth and search: their squared error is %.4g, "
                  "against the weights with the folds, which have to be quantized, %.4g; the stage that quantizes "
                  "multiplies columns by the fold of the linear's site, and divides rows by the one that they absorb",
                  plain, transformed);
    return 0;
}

static int judge_linear(const struct judging *j, int linear, const float *h, struct qp_error *err)
{
    const struct qp_model *model = j->model;
    const struct qp_block *block = j->block;
    const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, linear);
    struct qp_quantized q;
    int r = scheme ? qp_block_quantized(block, linear, scheme, &q, err) : 0;
    if (r <= 0)
        return r;
    char name[256];
    qp_module_name(block->arch, block->layer, linear, name, sizeof name);
    struct qp_workspace workspace;
    r = qp_workspace_open(q.rows, q.cols, &workspace, err);
    if (r == 0)
        r = qp_block_weight(block, linear, true, workspace.w, err);
    if (r == 0)
        r = qp_dequantize(block->kernels, &q, workspace.q, err);
    if (r == 0)
        r = qp_block_add_low_rank(block, linear, workspace.q, err);
    if (r == 0)
        r = check_folds(j, linear, &workspace, name, err);
    json_t *entry = json_pack("{s:s, s:s}", "name", name, "scheme", model->scheme->name);
    if (r == 0)
        r = judge(block->kernels, &workspace, &scheme->weights, &q, h, entry, err);
    if (json_array_append_new(j->linears, entry) < 0 && r == 0)
        r = qp_fail_memory(err, 0, "a report");
    qp_workspace_close(&workspace);
    return r;
}

static int judge_site(const struct judging *j, int site, struct qp_error *err)
{
    const struct qp_block *block = j->block;
    float *h = NULL;
    int r = 0;
    if (qp_block_has_stat(block, site, "hessian")) {
        int64_t in = block->type->sites[site].in;
        h = qp_new_floats(in * in, "a Hessian", err);
        r = h ? qp_block_hessian(block, site, h, err) : QP_ERR_SPACE;
    }
    for (int i = 0; i < block->type->linear_count && r == 0; i++)
        if (block->type->linears[i].site == site)
            r = judge_linear(j, i, h, err);
    free(h);
    return r;
}

/* A method that loses more than plain rounding does has been misled, by a singular Hessian or too little text. */
static void warn_of_worse(const struct judging *j)
{
    size_t i;
    json_t *linear;
    json_array_foreach(j->linears, i, linear) {
        const char *name = json_string_value(json_object_get(linear, "name"));
        double loss = json_number_value(json_object_get(linear, "site_loss"));
        double rtn = json_number_value(json_object_get(linear, "site_loss_rtn"));
        if (loss > rtn * (1.0 + NOISE) && !json_object_get(j->astray, name))
            qp_stage_warn(j->stage, "site-loss-worse", name,
                          "its site loss is %.6g, %.2f times that of rounding to nearest (%.6g); give it more "
                          "calibration text, raise the damping, or leave it to rtn",
                          loss, loss / rtn, rtn);
    }
}

int qp_judge_linears(struct qp_stage *stage, const struct qp_model *model, const struct qp_block *block,
                     struct qp_error *err)
{
    qp_auto_json json_t *astray = json_object();
    json_t *linears = json_array();
    struct judging j = {stage, model, block, linears, astray};
    int r = linears && astray ? 0 : qp_fail_memory(err, 0, "a report");
    for (int site = 0; site < block->type->site_count && r == 0; site++) {
        if (qp_model_quantizes_site(model, block->layer, site))
            r = judge_site(&j, site, err);
        if (qp_stage_drops(stage, "hessian"))
            qp_block_drop(block, site, "hessian");
    }
    if (r < 0) {
        json_decref(linears);
        return r;
    }
    warn_of_worse(&j);
    qp_stage_report(stage, "linears", linears);
    return 0;
}
