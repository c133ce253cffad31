#include "stages/quantize/refit.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/failure.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"
#include "libstage/solvers/scales.h"

/* One row: its codes, its scales, its gradient; v and hv are scratch of [cols]. */
struct row {
    const struct qp_quantized *q;
    const float *h;
    const uint8_t *codes;
    const int8_t *zero;
    float *scale, *gradient, *v, *hv;
};

/* hv = H[:, first to first + count) v, by rows of H, which is symmetric. */
static void product(const struct row *row, int64_t first, int64_t count)
{
    int64_t n = row->q->cols;
    for (int64_t j = 0; j < n; j++)
        row->hv[j] = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        const float *h = row->h + (first + i) * n;
        float v = row->v[i];
        if (v != 0.0f)
            for (int64_t j = 0; j < n; j++)
                row->hv[j] += v * h[j];
    }
}

static double refit_group(const struct row *row, int64_t group)
{
    const struct qp_quantized *q = row->q;
    int64_t n = q->cols, first = group * q->group, count = n - first < q->group ? n - first : q->group;
    double slope = 0.0, curvature = 0.0;
    int8_t zero = row->zero ? row->zero[group] : 0;
    for (int64_t i = 0; i < count; i++)
        row->v[i] = qp_value(&q->format, row->codes[first + i], 1.0f, zero);
    product(row, first, count);
    for (int64_t i = 0; i < count; i++) {
        slope += (double)row->v[i] * row->gradient[first + i];
        curvature += (double)row->v[i] * row->hv[first + i];
    }
    float target = (float)(row->scale[group] + slope / curvature);
    if (!isfinite(target) || target <= 0.0f)
        return 0.0;
    float scale = qp_held_scale(&q->format, target), change = scale - row->scale[group];
    double gain = change * (2.0 * slope - change * curvature);
    if (!(gain > 0.0))
        return 0.0;
    row->scale[group] = scale;
    for (int64_t j = 0; j < n; j++)
        row->gradient[j] -= change * row->hv[j];
    return gain;
}

double qp_refit_scales(const struct qp_quantized *q, const float *h, float *gradient, float *scale)
{
    int64_t n = q->cols, groups = qp_groups(n, q->group);
    double *gains = qp_scratch((size_t)q->rows, sizeof *gains), gain = 0.0;
#pragma omp parallel
    {
        float *v = qp_scratch((size_t)n, 2 * sizeof *v);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < q->rows; r++) {
            if (gains == NULL)
                continue;
            gains[r] = 0.0;
            if (v == NULL || qp_failure_is_set())
                continue;
            struct row row = {.q = q,
                              .h = h,
                              .codes = q->codes + r * n,
                              .zero = q->zero ? q->zero + r * groups : NULL,
                              .scale = scale + r * groups,
                              .gradient = gradient + r * n,
                              .v = v,
                              .hv = v + n};
            for (int64_t g = 0; g < groups; g++)
                gains[r] += refit_group(&row, g);
        }
        free(v);
    }
    for (int64_t r = 0; r < q->rows && gains != NULL; r++)
        gain += gains[r];
    free(gains);
    return gain;
}
