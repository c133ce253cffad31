#include <stdlib.h>

#include "kernels/candidates.h"
#include "kernels/failure.h"
#include "kernels/scratch.h"

/* Sums of float32 go over 16 partial sums, element j to that of j % 16, which are then folded in halves. */
enum { PARTS = 16 };

static float fold(float *part)
{
    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            part[l] += part[l + half];
    return part[0];
}

/* Columns [first, first + count) of one row, and space for their deviations. */
struct piece {
    const float *w;
    int64_t first, count;
    float *d;
};

static void deviate(const struct qp_scale_search *s, const struct piece *p, float scale, int8_t zero)
{
    for (int64_t j = 0; j < p->count; j++) {
        float w = isnan(p->w[j]) ? 0 : p->w[j];
        p->d[j] = qp_value(s->format, qp_code(s->format, w, scale, zero), scale, zero) - w;
    }
}

static float weighted_error(const struct qp_scale_search *s, const struct piece *p)
{
    float part[PARTS] = {0};

    for (int64_t j = 0; j < p->count; j++) {
        float measure = s->norm == 2 ? p->d[j] * p->d[j] : qp_power(fabsf(p->d[j]), (float)s->norm);
        part[j % PARTS] += s->importance == NULL ? measure : s->importance[p->first + j] * measure;
    }
    return fold(part);
}

static float quadratic_error(const struct qp_scale_search *s, const struct piece *p)
{
    float part[PARTS] = {0};

    for (int64_t j = 0; j < p->count; j++) {
        float sum = 0;
        for (int64_t i = 0; i < p->count; i++)
            sum += p->d[i] * s->hessian[(p->first + i) * s->cols + p->first + j];
        part[j % PARTS] += sum * p->d[j];
    }
    return fold(part);
}

/* Error of the `rows` pieces, s->cols apart, that share a scale. */
static double error_of(const struct qp_scale_search *s, struct piece p, int64_t rows, float scale, int8_t zero)
{
    double sum = 0;

    for (int64_t r = 0; r < rows; r++, p.w += s->cols) {
        deviate(s, &p, scale, zero);
        sum += (double)(s->hessian != NULL ? quadratic_error(s, &p) : weighted_error(s, &p));
    }
    return sum;
}

static void range(const struct qp_scale_search *s, const struct piece *p, int64_t rows, float *min, float *max)
{
    *min = *max = 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < p->count; j++) {
            float x = p->w[r * s->cols + j];
            *min = x < *min ? x : *min;
            *max = x > *max ? x : *max;
        }
}

/* Chooses the scale of one group; `scale` and `zero` have space for all candidates. */
static void search(const struct qp_scale_search *s, struct piece p, int64_t rows, float *scale, int8_t *zero,
                   int64_t at)
{
    float min, max;
    range(s, &p, rows, &min, &max);
    int n = qp_candidates(s, min, max, scale, zero), best = 0;
    double least = INFINITY;

    for (int c = 0; c < n; c++) {
        double error = error_of(s, p, rows, scale[c], s->format->symmetric ? 0 : zero[c]);
        if (error < least) { /* never so for NaN: what overflows is no choice */
            least = error;
            best = c;
        }
    }
    s->scale[at] = scale[best];
    if (s->zero != NULL)
        s->zero[at] = s->format->symmetric ? 0 : zero[best];
}

void qp_scale_search_ref(const struct qp_scale_search *s)
{
    int64_t width = s->group == 0 ? s->cols : s->group, groups = qp_groups(s->cols, s->group);
    int64_t capacity = qp_candidate_count(s);
    float *d = qp_scratch((size_t)width, sizeof *d);
    float *scale = qp_scratch((size_t)capacity, sizeof *scale);
    int8_t *zero = qp_scratch((size_t)capacity, sizeof *zero);

    bool good = d != NULL && scale != NULL && zero != NULL;
    if (s->group == 0 && good)
        search(s, (struct piece){s->w, 0, s->cols, d}, s->rows, scale, zero, 0);
    for (int64_t r = 0; r < s->rows && s->group != 0 && good && !qp_failure_is_set(); r++)
        for (int64_t g = 0; g < groups; g++) {
            int64_t first = g * width, count = s->cols - first < width ? s->cols - first : width;
            search(s, (struct piece){s->w + r * s->cols + first, first, count, d}, 1, scale, zero, r * groups + g);
        }
    free(d);
    free(scale);
    free(zero);
}
