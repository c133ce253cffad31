#include "stages/search/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/model/quality.h"

/* The share of a group's range down to which it may be clipped, and how many ranges are tried. */
#define SHRINK 0.4f
enum { STEPS = 25 };

void trial_close(struct trial *t)
{
    for (int i = 0; i < t->count; i++) {
        free(t->members[i].w);
        free(t->members[i].columns);
    }
    free(t->h);
    free(t->scaled_h);
    free(t->s);
    free(t->scaled);
    free(t->scratch);
    free(t->scale);
    free(t->zero);
    free(t->codes);
}

static int load_member(struct trial *t, const struct qp_block *block, enum qp_linear linear,
                       const struct qp_quant_spec *spec, struct qp_error *err)
{
    int64_t rows = qp_arch_dim(block->arch, block->arch->family->linears[linear].out);
    int64_t group = qp_spec_group(spec, t->in);
    struct member *m = &t->members[t->count++];
    *m = (struct member){.linear = linear,
                         .spec = spec,
                         .grid = spec->grid,
                         .rows = rows,
                         .group = group,
                         .scales = qp_scale_count(rows, t->in, group),
                         .w = qp_new_floats(rows * t->in, "a linear's weights", err),
                         .columns = qp_new_floats(t->in, "the maxima of columns", err)};
    if (!m->w || !m->columns)
        return QP_ERR_ROOM;
    int r = qp_block_weight(block, linear, true, m->w, err);
    if (r < 0)
        return r;
    memset(m->columns, 0, (size_t)t->in * sizeof *m->columns);
    t->kernels->column_stats(rows, t->in, m->w, m->columns, NULL, NULL, NULL);
    return 0;
}

static int load_members(struct trial *t, const struct qp_model *model, const struct qp_block *block, enum qp_site site,
                        struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < QP_LINEARS && r == 0; i++) {
        const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, (enum qp_linear)i);
        if (block->arch->family->linears[i].site == site && scheme && scheme->weights.enabled)
            r = load_member(t, block, (enum qp_linear)i, &scheme->weights, err);
    }
    return r;
}

static int allocate(struct trial *t, struct qp_error *err)
{
    int64_t rows = 0, scales = 0;
    for (int i = 0; i < t->count; i++) {
        rows = t->members[i].rows > rows ? t->members[i].rows : rows;
        scales = t->members[i].scales > scales ? t->members[i].scales : scales;
    }
    t->h = qp_new_floats(t->in * t->in, "a second moment", err);
    t->scaled_h = qp_new_floats(t->in * t->in, "a scaled second moment", err);
    t->s = qp_new_floats(2 * t->in, "scales of channels", err);
    t->scaled = qp_new_floats(rows * t->in, "scaled weights", err);
    t->scratch = qp_new_floats(rows * t->in, "scratch", err);
    t->scale = qp_new_floats(scales, "scales", err);
    t->zero = qp_new_array(scales, 1, "zero points", err);
    t->codes = qp_new_array(rows * t->in, 1, "codes", err);
    if (!t->h || !t->scaled_h || !t->s || !t->scaled || !t->scratch || !t->scale || !t->zero || !t->codes)
        return QP_ERR_ROOM;
    t->best = t->s + t->in;
    for (int64_t j = 0; j < t->in; j++)
        t->s[j] = t->best[j] = 1.0f;
    return 0;
}

int trial_open(struct trial *t, const struct qp_model *model, const struct qp_block *block, enum qp_site site,
               enum qp_scale_method clip, struct qp_error *err)
{
    *t = (struct trial){.kernels = block->kernels,
                        .clip = clip,
                        .in = qp_arch_dim(block->arch, block->arch->family->sites[site].dim),
                        .best_loss = INFINITY};
    int r = load_members(t, model, block, site, err);
    if (r == 0)
        r = allocate(t, err);
    return r == 0 ? qp_block_second_moment(block, site, t->h, err) : r;
}

/* Engines fuse the linears of a site: those with a global scale share that of the largest weight. */
static void share_global(struct trial *t)
{
    float largest = 0.0f;
    bool four_over_six = false;
    for (int i = 0; i < t->count; i++) {
        four_over_six |= t->members[i].spec->four_over_six;
        for (int64_t j = 0; t->members[i].grid.scale_dtype == QP_F8_E4M3 && j < t->in; j++)
            largest = fmaxf(largest, t->members[i].columns[j] * t->s[j]);
    }
    for (int i = 0; i < t->count; i++)
        if (t->members[i].grid.scale_dtype == QP_F8_E4M3)
            t->members[i].grid.global = qp_global_scale(largest, four_over_six);
}

void trial_prepare(struct trial *t)
{
    share_global(t);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < t->in; i++)
        for (int64_t j = 0; j < t->in; j++)
            t->scaled_h[i * t->in + j] = t->h[i * t->in + j] / (t->s[i] * t->s[j]);
}

int trial_quantize(struct trial *t, const struct member *m, struct qp_error *err)
{
    const struct qp_scale_choice choice = {.method = t->clip, .h = t->scaled_h, .shrink = SHRINK, .steps = STEPS};
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < m->rows; r++)
        for (int64_t j = 0; j < t->in; j++)
            t->scaled[r * t->in + j] = m->w[r * t->in + j] * t->s[j];
    int r = qp_choose_scales(t->kernels, m->spec, &m->grid, m->rows, t->in, t->scaled, &choice, t->scale, t->zero, err);
    if (r == 0)
        t->kernels->quantize(&m->grid, m->rows, t->in, m->group, t->scaled, t->scale,
                             m->grid.symmetric ? NULL : t->zero, t->codes);
    return r;
}

/* The loss of one member. In the metric of the scaled H the error needs no division by s. */
static int member_loss(struct trial *t, const struct member *m, double *loss, struct qp_error *err)
{
    int r = trial_quantize(t, m, err);
    if (r < 0)
        return r;
    float *delta = t->scratch;
    t->kernels->dequantize(&m->grid, m->rows, t->in, m->group, t->codes, t->scale, m->grid.symmetric ? NULL : t->zero,
                           delta);
    qp_difference(m->rows * t->in, delta, t->scaled, delta);
    *loss += qp_site_loss(t->kernels, m->rows, t->in, delta, t->scaled_h, t->scaled);
    return 0;
}

int trial_judge(struct trial *t, double *loss, struct qp_error *err)
{
    int r = 0;
    *loss = 0.0;
    trial_prepare(t);
    for (int i = 0; i < t->count && r == 0; i++)
        r = member_loss(t, &t->members[i], loss, err);
    if (r == 0 && *loss < t->best_loss) {
        t->best_loss = *loss;
        memcpy(t->best, t->s, (size_t)t->in * sizeof *t->s);
    }
    return r;
}
