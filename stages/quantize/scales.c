#include "stages/quantize/scales.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "stages/quantize/hqq.h"
#include "stages/quantize/modelopt.h"

static enum qp_scale_method method_of(const struct qp_quantize_options *o, bool known)
{
    if (qp_is(o->scales, "auto"))
        return known ? QP_SCALES_WEIGHTED : QP_SCALES_MINMAX;
    return qp_is(o->scales, "mse")        ? QP_SCALES_MSE
           : qp_is(o->scales, "weighted") ? QP_SCALES_WEIGHTED
           : qp_is(o->scales, "hessian")  ? QP_SCALES_HESSIAN
                                          : QP_SCALES_MINMAX;
}

/* diagonal: where it is known without h; else NULL. */
static struct qp_scale_choice choice_of(const struct qp_quantize_options *o, const float *h, const float *diagonal)
{
    return (struct qp_scale_choice){.method = method_of(o, h || diagonal),
                                    .h = h,
                                    .diagonal = diagonal,
                                    .shrink = (float)o->shrink,
                                    .steps = (int)o->steps,
                                    .norm = o->norm};
}

static float absmax(const struct qp_member *m)
{
    float largest = 0.0f;
    for (int64_t i = 0; i < m->q.rows * m->q.cols; i++)
        largest = fmaxf(largest, fabsf(m->w[i]));
    return largest;
}

/* The one global scale of the site's NVFP4 linears. */
static void set_global_scale(struct qp_site_work *work)
{
    float largest = 0.0f;
    bool four_over_six = false;
    for (int i = 0; i < work->count; i++)
        if (work->members[i].q.format.scale_dtype == QP_F8_E4M3) {
            largest = fmaxf(largest, absmax(&work->members[i]));
            four_over_six |= work->members[i].spec->four_over_six;
        }
    for (int i = 0; i < work->count; i++) {
        struct qp_member *m = &work->members[i];
        if (m->q.format.scale_dtype == QP_F8_E4M3 && work->exact == QP_EXACT_MODELOPT)
            qp_modelopt_global(m, largest, four_over_six);
        else if (m->q.format.scale_dtype == QP_F8_E4M3)
            m->q.format.global = qp_global_scale(largest, four_over_six);
    }
}

static int check_given(const struct qp_site_work *work, const struct qp_member *m, const struct qp_quantized *given,
                       struct qp_error *err)
{
    int64_t count = qp_scale_count(given->rows, given->cols, given->group);
    bool good =
        given->format.scale_dtype != QP_F8_E4M3 || (isfinite(given->format.global) && given->format.global > 0.0f);
    for (int64_t i = 0; i < count && good; i++)
        good = isfinite(given->scale[i]) && given->scale[i] > 0.0f;
    if (good)
        return 0;
    return qp_fail(err, QP_ERR_INPUT, "layer %lld, %s: a weight_scale of the unit is not a finite number above 0",
                   (long long)work->block->layer, work->block->type->linears[m->linear].module);
}

/* Scales that are in the unit: 1 when there were some. */
static int take_given(const struct qp_model *model, struct qp_site_work *work, struct qp_member *m,
                      struct qp_error *err)
{
    struct qp_quantized given;
    const struct qp_linear_scheme *scheme = qp_model_scheme(model, work->block->layer, m->linear);
    int r = qp_block_scales(work->block, m->linear, scheme, &given, err);
    if (r > 0 && check_given(work, m, &given, err) < 0)
        return QP_ERR_INPUT;
    if (r <= 0)
        return r;
    int64_t count = qp_scale_count(given.rows, given.cols, given.group);
    m->q.format = given.format;
    m->reciprocal = 1.0f / given.format.global;
    memcpy(m->scale, given.scale, (size_t)count * sizeof *m->scale);
    if (given.zero)
        memcpy(m->zero, given.zero, (size_t)count);
    return 1;
}

static int choose(const struct qp_quantize_options *o, const struct qp_model *model, struct qp_site_work *work,
                  struct qp_member *m, struct qp_error *err)
{
    struct qp_scale_choice choice = choice_of(o, m->h, work->diagonal);
    bool keep = qp_is(o->scales, "auto") && !qp_is(o->method, "hqq") && m->low_rank.rank == 0;
    int r = keep ? take_given(model, work, m, err) : 0;
    if (r != 0)
        return r < 0 ? r : 0;
    r = qp_choose_scales(work->block->kernels, &(struct qp_unscaled){m->spec, &m->q.format, m->q.rows, m->q.cols, m->w},
                         &choice, m->scale, m->zero, err);
    if (r == 0 && work->exact == QP_EXACT_MODELOPT && choice.method == QP_SCALES_MINMAX && !m->spec->four_over_six)
        qp_modelopt_scales(m);
    return r == 0 && qp_is(o->method, "hqq") ? qp_hqq(m, err) : r;
}

static bool shares(const struct qp_member *m)
{
    return m->q.group == 0 && m->q.format.codes != QP_I8;
}

static void share_largest(struct qp_site_work *work)
{
    float largest = 0.0f;
    for (int i = 0; i < work->count; i++)
        if (shares(&work->members[i]))
            largest = fmaxf(largest, work->members[i].scale[0]);
    for (int i = 0; i < work->count; i++)
        if (shares(&work->members[i]))
            work->members[i].scale[0] = largest;
}

int qp_site_choose_scales(const struct qp_quantize_options *options, const struct qp_model *model,
                          struct qp_site_work *work, struct qp_error *err)
{
    int r = 0;
    set_global_scale(work);
    for (int i = 0; i < work->count && r == 0; i++)
        r = choose(options, model, work, &work->members[i], err);
    if (r == 0 && options->share && work->exact == QP_EXACT_NONE)
        share_largest(work);
    return r;
}

/* The block of H that belongs to a group's columns. */
static float *hessian_of(const struct qp_member *m, int64_t count, const int64_t *columns, struct qp_error *err)
{
    float *h = qp_new_floats(count * count, "a group's Hessian", err);
    for (int64_t i = 0; h && i < count; i++)
        for (int64_t j = 0; j < count; j++)
            h[i * count + j] = m->h[columns[i] * m->q.cols + columns[j]];
    return h;
}

int qp_rescale_group(void *rescaling, int64_t group, int64_t count, const int64_t *columns, const float *w,
                     struct qp_error *err)
{
    const struct qp_rescaling *s = rescaling;
    struct qp_member *m = s->member;
    int64_t rows = m->q.rows, groups = qp_groups(m->q.cols, m->q.group);
    float *h = hessian_of(m, count, columns, err), *scale = qp_new_floats(rows, "a group's scales", err);
    int8_t *zero = qp_new_array(rows, 1, "a group's zero points", err);
    int r = h && scale && zero ? 0 : QP_ERR_SPACE;
    if (r == 0) {
        struct qp_scale_choice choice = choice_of(s->options, h, NULL);
        r = qp_choose_scales(s->work->block->kernels, &(struct qp_unscaled){m->spec, &m->q.format, rows, count, w},
                             &choice, scale, zero, err);
    }
    for (int64_t i = 0; r == 0 && i < rows; i++) {
        m->scale[i * groups + group] = scale[i];
        if (m->q.zero)
            m->zero[i * groups + group] = zero[i];
    }
    free(h);
    free(scale);
    free(zero);
    return r;
}
