#include "stages/search/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/solvers/quality.h"
#include "libstage/tensor/operations.h"

/* The share of a group's range down to which it may be clipped, and how many ranges are tried. */
#define SHRINK 0.4f
enum { STEPS = 25 };

/* Rows that a slice has at least, all members together. */
enum { SLICE_ROWS = 64 };

/* The share of the best's loss in a number of rows that no candidate is expected to make up. Of the candidates for 360
 * sites of a real network (INT4, INT3, grids of both forms) it gave none up that would have won; 0.1 gave up four. */
#define HOPE 0.2

void trial_close(struct trial *t)
{
    for (int i = 0; i < t->count; i++) {
        free(t->members[i].w);
        free(t->members[i].columns);
        free(t->members[i].ranked);
    }
    free(t->h);
    free(t->scaled_h);
    free(t->s);
    free(t->scaled);
    free(t->scratch);
    free(t->scale);
    free(t->zero);
    free(t->codes);
    free(t->losses);
}

static int load_member(struct trial *t, const struct qp_block *block, int linear, const struct qp_quant_spec *spec,
                       struct qp_error *err)
{
    int64_t rows = block->type->linears[linear].out;
    int64_t group = qp_spec_group(spec, t->in);
    struct member *m = &t->members[t->count++];
    *m = (struct member){.linear = linear,
                         .spec = spec,
                         .format = spec->format,
                         .rows = rows,
                         .group = group,
                         .scales = qp_scale_count(rows, t->in, group),
                         .w = qp_new_floats(rows * t->in, "a linear's weights", err),
                         .columns = qp_new_floats(t->in, "the maxima of columns", err),
                         .ranked = qp_new_array(rows, sizeof *m->ranked, "the order of rows", err)};
    if (!m->w || !m->columns || !m->ranked)
        return QP_ERR_SPACE;
    for (int64_t i = 0; i < rows; i++)
        m->ranked[i].row = i;
    int r = qp_block_weight(block, linear, true, m->w, err);
    if (r < 0)
        return r;
    memset(m->columns, 0, (size_t)t->in * sizeof *m->columns);
    t->kernels->column_stats(rows, t->in, m->w, m->columns, NULL, NULL, NULL);
    return 0;
}

static int load_members(struct trial *t, const struct qp_model *model, const struct qp_block *block, int site,
                        struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < block->type->linear_count && r == 0; i++) {
        const struct qp_linear_scheme *scheme = qp_model_scheme(model, block->layer, i);
        if (block->type->linears[i].site == site && scheme && scheme->weights.enabled)
            r = load_member(t, block, i, &scheme->weights, err);
    }
    return r;
}

static int64_t count_slices(const struct trial *t)
{
    int64_t rows = 0;
    for (int i = 0; i < t->count; i++) {
        if (t->members[i].group == 0 || t->members[i].spec->granularity == QP_PER_BLOCK)
            return 1;
        rows += t->members[i].rows;
    }
    rows /= SLICE_ROWS;
    return rows < 1 ? 1 : rows > MOST_SLICES ? MOST_SLICES : rows;
}

static int allocate(struct trial *t, struct qp_error *err)
{
    int64_t rows = 0, scales = 0;
    bool blocks = t->clip == QP_SCALES_HESSIAN;
    for (int i = 0; i < t->count; i++) {
        rows = t->members[i].rows > rows ? t->members[i].rows : rows;
        scales = t->members[i].scales > scales ? t->members[i].scales : scales;
    }
    t->h = qp_new_floats(t->in * t->in, "a Hessian", err);
    t->scaled_h = blocks ? qp_new_floats(t->in * t->in, "a scaled Hessian", err) : NULL;
    t->s = qp_new_floats(3 * t->in, "scales of channels", err);
    t->scaled = qp_new_floats(rows * t->in, "scaled weights", err);
    t->scratch = qp_new_floats(rows * t->in, "scratch", err);
    t->scale = qp_new_floats(scales, "scales", err);
    t->zero = qp_new_array(scales, 1, "zero points", err);
    t->codes = qp_new_array(rows * t->in, 1, "codes", err);
    t->losses = qp_new_array(rows, sizeof *t->losses, "losses of rows", err);
    if (!t->h || (blocks && !t->scaled_h) || !t->s || !t->scaled || !t->scratch || !t->scale || !t->zero || !t->codes ||
        !t->losses)
        return QP_ERR_SPACE;
    t->best = t->s + t->in;
    t->diagonal = t->best + t->in;
    for (int64_t j = 0; j < t->in; j++)
        t->s[j] = t->best[j] = 1.0f;
    return 0;
}

int trial_open(struct trial *t, const struct qp_model *model, const struct qp_block *block, int site,
               enum qp_scale_method clip, struct qp_error *err)
{
    *t = (struct trial){
        .kernels = block->kernels, .clip = clip, .in = block->type->sites[site].in, .best_loss = INFINITY};
    int r = load_members(t, model, block, site, err);
    t->slices = count_slices(t);
    if (r == 0)
        r = allocate(t, err);
    return r == 0 ? qp_block_hessian(block, site, t->h, err) : r;
}

/* Engines fuse the linears of a site: those with a global scale share that of the largest weight. */
static void share_global(struct trial *t)
{
    float largest = 0.0f;
    bool four_over_six = false;
    for (int i = 0; i < t->count; i++) {
        four_over_six |= t->members[i].spec->four_over_six;
        for (int64_t j = 0; t->members[i].format.scale_dtype == QP_F8_E4M3 && j < t->in; j++)
            largest = fmaxf(largest, t->members[i].columns[j] * t->s[j]);
    }
    for (int i = 0; i < t->count; i++)
        if (t->members[i].format.scale_dtype == QP_F8_E4M3)
            t->members[i].format.global = qp_global_scale(largest, four_over_six);
}

void trial_prepare(struct trial *t)
{
    share_global(t);
    for (int64_t j = 0; j < t->in; j++)
        t->diagonal[j] = t->h[j * t->in + j] / (t->s[j] * t->s[j]);
    if (!t->scaled_h)
        return;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < t->in; i++)
        for (int64_t j = 0; j < t->in; j++)
            t->scaled_h[i * t->in + j] = t->h[i * t->in + j] / (t->s[i] * t->s[j]);
}

int trial_quantize(struct trial *t, const struct member *m, int64_t first, int64_t rows, struct qp_error *err)
{
    const struct qp_scale_choice choice = {
        .method = t->clip, .h = t->scaled_h, .diagonal = t->diagonal, .shrink = SHRINK, .steps = STEPS};
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *w = m->w + m->ranked[first + r].row * t->in;
        for (int64_t j = 0; j < t->in; j++)
            t->scaled[r * t->in + j] = w[j] * t->s[j];
    }
    int r = qp_choose_scales(t->kernels, &(struct qp_unscaled){m->spec, &m->format, rows, t->in, t->scaled}, &choice,
                             t->scale, t->zero, err);
    if (r == 0)
        t->kernels->quantize(
            &(struct qp_grouped){&m->format, rows, t->in, m->group, t->scale, m->format.symmetric ? NULL : t->zero},
            t->scaled, t->codes);
    return r;
}

/* What each of a member's rows in places [first, first + rows) loses, in t->losses. */
static int take_losses(struct trial *t, const struct member *m, int64_t first, int64_t rows, struct qp_error *err)
{
    int r = trial_quantize(t, m, first, rows, err);
    if (r < 0)
        return r;
    float *delta = t->scratch;
    t->kernels->dequantize(
        &(struct qp_grouped){&m->format, rows, t->in, m->group, t->scale, m->format.symmetric ? NULL : t->zero},
        t->codes, delta);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < t->in; j++)
            delta[i * t->in + j] = (delta[i * t->in + j] - t->scaled[i * t->in + j]) / t->s[j];
    qp_row_losses(t->kernels, rows, t->in, delta, t->h, t->scaled, t->losses);
    return 0;
}

/* Where a slice of a member begins. */
static int64_t slice_begin(const struct trial *t, const struct member *m, int64_t slice)
{
    return m->rows * slice / t->slices;
}

/* Adds what the rows of one slice lose; the first candidate's losses are noted. */
static int add_slice(struct trial *t, int64_t slice, double *loss, struct qp_error *err)
{
    for (int i = 0; i < t->count; i++) {
        struct member *m = &t->members[i];
        int64_t first = slice_begin(t, m, slice), rows = slice_begin(t, m, slice + 1) - first;
        int r = qp_operations_go_on(err);
        if (r == 0 && rows > 0)
            r = take_losses(t, m, first, rows, err);
        if (r < 0)
            return r;
        for (int64_t k = 0; k < rows; k++)
            *loss += t->losses[k];
        for (int64_t k = 0; k < rows && isinf(t->best_loss); k++)
            m->ranked[first + k].loss = t->losses[k];
    }
    return 0;
}

static int compare_ranks(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->loss != y->loss)
        return x->loss > y->loss ? -1 : 1;
    return x->row < y->row ? -1 : 1;
}

/* Puts the rows in order, and the sums of the first candidate with them. */
static void rank_rows(struct trial *t)
{
    double sum = 0.0;
    for (int i = 0; i < t->count && t->slices > 1; i++)
        qsort(t->members[i].ranked, (size_t)t->members[i].rows, sizeof *t->members[i].ranked, compare_ranks);
    for (int64_t k = 0; k < t->slices; k++) {
        for (int i = 0; i < t->count; i++) {
            const struct member *m = &t->members[i];
            for (int64_t r = slice_begin(t, m, k); r < slice_begin(t, m, k + 1); r++)
                sum += m->ranked[r].loss;
        }
        t->best_sums[k] = sum;
    }
}

/* Whether the slices up to this one tell that the candidate is not the best. */
static bool is_downstream(const struct trial *t, int64_t slice, double loss)
{
    double rest = t->best_sums[t->slices - 1] - t->best_sums[slice];
    return isfinite(t->best_loss) && loss + (1.0 - HOPE) * rest >= t->best_loss;
}

int trial_judge(struct trial *t, double *loss, struct qp_error *err)
{
    double sums[MOST_SLICES], sum = 0.0;
    bool first = isinf(t->best_loss);
    *loss = INFINITY;
    trial_prepare(t);
    for (int64_t k = 0; k < t->slices; k++) {
        int r = add_slice(t, k, &sum, err);
        if (r < 0 || is_downstream(t, k, sum))
            return r;
        sums[k] = sum;
    }
    if (!isfinite(sum))
        return 0;
    *loss = t->best_loss = fmax(sum, 0.0);
    memcpy(t->best, t->s, (size_t)t->in * sizeof *t->s);
    memcpy(t->best_sums, sums, sizeof sums);
    if (first)
        rank_rows(t);
    return 0;
}
