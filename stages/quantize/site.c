#include "stages/quantize/site.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "stages/quantize/low_rank.h"

/* Sweeps after GPTQ when the user leaves them open. */
enum { DEFAULT_SWEEPS = 4 };

bool qp_is(const char *text, const char *word)
{
    return strcmp(text, word) == 0;
}

int64_t qp_descent_sweeps(const struct qp_quantize_options *options)
{
    if (options->descent >= 0)
        return options->descent;
    return qp_is(options->method, "gptq") ? DEFAULT_SWEEPS : 0;
}

static int load_member(struct qp_site_work *work, int linear, const struct qp_linear_scheme *scheme,
                       struct qp_error *err)
{
    const struct qp_quant_spec *spec = &scheme->weights;
    const struct qp_block *block = work->block;
    int64_t rows = block->type->linears[linear].out;
    int64_t group = qp_spec_group(spec, work->in), count = qp_scale_count(rows, work->in, group);
    struct qp_member *m = &work->members[work->count++];
    *m = (struct qp_member){.linear = linear,
                            .scheme = scheme,
                            .spec = spec,
                            .w = qp_new_floats(rows * work->in, "a linear's weights", err),
                            .scale = qp_new_floats(count, "scales", err),
                            .zero = qp_new_array(count, 1, "zero points", err),
                            .codes = qp_new_array(rows * work->in, 1, "codes", err)};
    if (!m->w || !m->scale || !m->zero || !m->codes)
        return QP_ERR_SPACE;
    int8_t *zero = spec->format.symmetric ? NULL : m->zero;
    m->q = (struct qp_quantized){spec->format, rows, work->in, group, m->codes, m->scale, zero, NULL, NULL};
    return qp_block_weight(block, linear, true, m->w, err);
}

bool qp_quantize_learns(const struct qp_quantize_options *o)
{
    bool by_scales = qp_is(o->scales, "weighted") || qp_is(o->scales, "hessian");
    return qp_is(o->method, "gptq") || qp_descent_sweeps(o) > 0 || by_scales;
}

static bool wants_hessian(const struct qp_quantize_options *o, const struct qp_site_work *work)
{
    bool optional =
        (qp_is(o->scales, "auto") || o->low_rank > 0) && qp_block_has_stat(work->block, work->site, "hessian");
    return qp_quantize_learns(o) || optional;
}

static int load_hessian(const struct qp_site_work *work, const char *stat, float **out, struct qp_error *err)
{
    *out = qp_new_floats(work->in * work->in, "a Hessian", err);
    return *out ? qp_block_site_matrix(work->block, work->site, stat, *out, err) : QP_ERR_SPACE;
}

/* Whether the site's only linear is solved by GPTQ's factor alone, which is made of the triangle: descent needs the
 * square after that. 1 with the diagonal, by which scales are chosen. */
static int spare_hessian(const struct qp_quantize_options *o, struct qp_site_work *work, struct qp_error *err)
{
    bool can = qp_is(o->method, "gptq") && work->count == 1 && !o->reestimate && o->low_rank == 0 &&
               o->asymmetric <= 0.0 && !qp_is(o->scales, "hessian");
    int r = can ? qp_block_packed_hessian(work->block, work->site, &work->packed, err) : 0;
    if (r <= 0)
        return r;
    work->diagonal = qp_new_floats(work->in, "a Hessian's diagonal", err);
    for (int64_t i = 0; work->diagonal && i < work->in; i++)
        work->diagonal[i] = qp_packed_diagonal(&work->packed, work->in, i);
    return work->diagonal ? 1 : QP_ERR_SPACE;
}

static int load_statistics(const struct qp_quantize_options *o, struct qp_site_work *work, struct qp_error *err)
{
    int r = spare_hessian(o, work, err);
    if (r == 0 && wants_hessian(o, work))
        r = load_hessian(work, "hessian", &work->h, err);
    r = r < 0 ? r : 0;
    for (int i = 0; i < work->count; i++)
        work->members[i].h = work->h;
    if (r < 0 || o->asymmetric <= 0.0 || qp_descent_sweeps(o) == 0)
        return r;
    r = load_hessian(work, "asymmetry", &work->asymmetry, err);
    if (r == 0)
        r = load_hessian(work, "held_asymmetry", &work->held_asymmetry, err);
    return r == 0 ? load_hessian(work, "held_hessian", &work->held_hessian, err) : r;
}

int qp_site_open(const struct qp_quantize_options *options, const struct qp_model *model, struct qp_block *block,
                 int site, struct qp_site_work *out, struct qp_error *err)
{
    const struct qp_layer_type *type = block->type;
    int r = 0;
    *out =
        (struct qp_site_work){.block = block, .site = site, .in = type->sites[site].in, .exact = model->scheme->exact};
    for (int i = 0; i < type->linear_count && r == 0; i++) {
        const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, i);
        if (type->linears[i].site == site && scheme && scheme->weights.enabled)
            r = load_member(out, i, scheme, err);
    }
    if (r == 0 && out->count > 0)
        r = load_statistics(options, out, err);
    return r;
}

void qp_site_close(struct qp_site_work *work)
{
    for (int i = 0; i < work->count; i++) {
        qp_low_rank_free(&work->members[i].low_rank);
        free(work->members[i].w);
        free(work->members[i].scale);
        free(work->members[i].zero);
        free(work->members[i].codes);
    }
    free(work->h);
    free(work->diagonal);
    free(work->asymmetry);
    free(work->held_asymmetry);
    free(work->held_hessian);
}

int qp_site_recall_hessian(struct qp_site_work *work, struct qp_error *err)
{
    int r = load_hessian(work, "hessian", &work->h, err);
    work->members[0].h = work->h;
    return r;
}
