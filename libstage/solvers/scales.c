#include "libstage/solvers/scales.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/rounding.h"
#include "libstage/base/memory.h"
#include "libstage/tensor/operations.h"

/* Number formats whose scales are themselves coarse (NVFP4, MX) try every scale that can be held, up to twice the
 * range's: their elements are spaced unevenly, and a larger scale can suit them better. */
static bool coarse_scales(const struct qp_number_format *format)
{
    return format->scale_dtype == QP_F8_E4M3 || format->scale_dtype == QP_F8_E8M0;
}

/* The widest range to try, as a share of a group's own. Symmetric integers reach one step farther below zero than above
 * it, and the scale of their range cuts half a step off the largest if that is above: a scale that holds it there is
 * the last one worth a try. */
static float widest(const struct qp_number_format *format)
{
    if (coarse_scales(format))
        return 2.0f;
    bool cuts = format->codes == QP_I8 && format->symmetric && !format->narrow;
    return cuts ? (qp_format_max(format) + 0.5f) / qp_format_max(format) : 1.0f;
}

/* "Four over six" for itself tries two scales: that of the range, and that which maps the largest to 4. */
static struct qp_scale_search search_of(const struct qp_number_format *format, const struct qp_scale_choice *choice,
                                        const float *importance)
{
    if (choice->method == QP_SCALES_MINMAX)
        return (struct qp_scale_search){.format = format, .norm = 2.0, .first = 6.0f / 4.0f, .last = 1.0f, .steps = 2};
    bool sweep = coarse_scales(format);
    return (struct qp_scale_search){.format = format,
                                    .importance = importance,
                                    .norm = choice->method != QP_SCALES_MSE ? 2.0
                                            : choice->norm > 0.0            ? choice->norm
                                                                            : 3.0,
                                    .first = widest(format),
                                    .last = choice->shrink,
                                    .steps = choice->steps,
                                    .sweep = sweep};
}

/* The scale of one block s->w[rows, cols], whose rows are `stride` apart, by way of copy[rows, cols]. */
static void block_scale(const struct qp_kernels *kernels, struct qp_scale_search *s, int64_t stride, bool search,
                        float *copy)
{
    for (int64_t r = 0; r < s->rows; r++)
        memcpy(copy + r * s->cols, s->w + r * stride, (size_t)s->cols * sizeof *copy);
    s->w = copy;
    if (search)
        kernels->scale_search(s);
    else
        kernels->qparams(s->format, s->rows, s->cols, 0, copy, s->scale, s->zero);
}

/* Of the whole matrix that `base` has, one scale a block, repeated for each of its rows. */
static int choose_blocks(const struct qp_kernels *kernels, const struct qp_quant_spec *spec,
                         const struct qp_scale_search *base, bool search, float *scale, int8_t *zero,
                         struct qp_error *err)
{
    int64_t rows = base->rows, cols = base->cols;
    int64_t width = spec->group < cols ? spec->group : cols, groups = qp_groups(cols, width);
    int64_t height = spec->block_rows < rows ? spec->block_rows : rows;
    float *copy = qp_new_floats(height * width, "a block of weights", err);
    if (!copy)
        return QP_ERR_SPACE;
    for (int64_t top = 0; top < rows; top += height)
        for (int64_t g = 0; g < groups; g++) {
            int64_t left = g * width;
            struct qp_scale_search s = *base;
            float one;
            int8_t none;
            s.rows = rows - top < height ? rows - top : height;
            s.cols = cols - left < width ? cols - left : width;
            s.importance = base->importance ? base->importance + left : NULL;
            s.w = base->w + top * cols + left;
            s.scale = &one;
            s.zero = &none;
            block_scale(kernels, &s, cols, search, copy);
            for (int64_t r = top; r < top + s.rows; r++) {
                scale[r * groups + g] = one;
                if (!spec->format.symmetric)
                    zero[r * groups + g] = none;
            }
        }
    free(copy);
    return 0;
}

static int choose(const struct qp_kernels *kernels, const struct qp_quant_spec *spec, struct qp_scale_search *s,
                  const struct qp_scale_choice *choice, float *scale, int8_t *zero, struct qp_error *err)
{
    bool search = choice->method != QP_SCALES_MINMAX || spec->four_over_six;
    if (spec->granularity == QP_PER_BLOCK)
        return choose_blocks(kernels, spec, s, search, scale, zero, err);
    s->group = qp_spec_group(spec, s->cols);
    s->hessian = choice->method == QP_SCALES_HESSIAN && s->group > 0 ? choice->h : NULL;
    s->scale = scale;
    s->zero = zero;
    if (search)
        kernels->scale_search(s);
    else
        kernels->qparams(s->format, s->rows, s->cols, s->group, s->w, scale, zero);
    return 0;
}

int qp_choose_scales(const struct qp_kernels *kernels, const struct qp_unscaled *m,
                     const struct qp_scale_choice *choice, float *scale, int8_t *zero, struct qp_error *err)
{
    bool weighted = choice->method == QP_SCALES_WEIGHTED || choice->method == QP_SCALES_HESSIAN;
    float *importance = NULL;
    int r = qp_operations_go_on(err);
    if (r < 0)
        return r;
    int64_t cols = m->cols;
    if (weighted) {
        importance = qp_new_floats(cols, "weights of columns", err);
        if (!importance)
            return QP_ERR_SPACE;
        for (int64_t j = 0; j < cols; j++)
            importance[j] = choice->diagonal ? choice->diagonal[j] : choice->h[j * cols + j];
    }
    struct qp_scale_search s = search_of(m->format, choice, importance);
    s.rows = m->rows;
    s.cols = cols;
    s.w = m->w;
    r = choose(kernels, m->spec, &s, choice, scale, zero, err);
    free(importance);
    return r;
}

float qp_global_scale(float absmax, bool four_over_six)
{
    float scale = (four_over_six ? 256.0f : 448.0f) * 6.0f / absmax;
    return isfinite(scale) && scale > 0.0f ? scale : 1.0f;
}

float qp_held_scale(const struct qp_number_format *format, float scale)
{
    if (format->scale_dtype == QP_F8_E4M3)
        return qp_e4m3_scale(qp_e4m3_scale_code(scale, format->global), format->global);
    return qp_round_scale(format->scale_dtype, scale);
}
