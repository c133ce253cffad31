#include <math.h>

#include "kernels/cpu/vector/vector.h"

/* Columns that one thread carries through all rows: the order of the rows is part of the contract. */
enum { STRIP = 128 };

struct strip {
    float absmax[STRIP], min[STRIP], max[STRIP];
    double abssum[STRIP];
};

static void add_row(struct strip *restrict s, int64_t count, const float *restrict x)
{
    for (int64_t i = 0; i < count; i++) {
        float a = fabsf(x[i]);
        s->absmax[i] = a > s->absmax[i] ? a : s->absmax[i];
        s->min[i] = x[i] < s->min[i] ? x[i] : s->min[i];
        s->max[i] = x[i] > s->max[i] ? x[i] : s->max[i];
    }
    for (int64_t i = 0; i < count; i++)
        s->abssum[i] += isnan(x[i]) ? 0 : fabsf(x[i]);
}

#define COPY(to, from)                  \
    for (int64_t i = 0; i < count; i++) \
    (to)[i] = (from)[i]

/* Where sums and extremes go; each may be NULL. */
struct columns {
    float *absmax;
    double *abssum;
    float *min, *max;
};

static void scan(int64_t rows, int64_t n, int64_t first, const float *x, const struct columns *c)
{
    int64_t count = n - first < STRIP ? n - first : STRIP;
    struct strip s = {0};

    if (c->absmax != NULL)
        COPY(s.absmax, c->absmax + first);
    if (c->abssum != NULL)
        COPY(s.abssum, c->abssum + first);
    if (c->min != NULL)
        COPY(s.min, c->min + first);
    if (c->max != NULL)
        COPY(s.max, c->max + first);
    for (int64_t r = 0; r < rows; r++)
        add_row(&s, count, x + r * n + first);
    if (c->absmax != NULL)
        COPY(c->absmax + first, s.absmax);
    if (c->abssum != NULL)
        COPY(c->abssum + first, s.abssum);
    if (c->min != NULL)
        COPY(c->min + first, s.min);
    if (c->max != NULL)
        COPY(c->max + first, s.max);
}

void QP_NAME(qp_column_stats)(int64_t rows, int64_t n, const float *x, float *absmax, double *abssum, float *min,
                              float *max)
{
    struct columns columns = {absmax, abssum, min, max};

#pragma omp parallel for if (rows * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t first = 0; first < n; first += STRIP)
        scan(rows, n, first, x, &columns);
}
