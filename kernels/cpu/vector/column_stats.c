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

static void scan(int64_t rows, int64_t n, int64_t first, const float *x, float *absmax, double *abssum, float *min,
                 float *max)
{
    int64_t count = n - first < STRIP ? n - first : STRIP;
    struct strip s = {0};

    if (absmax != NULL)
        COPY(s.absmax, absmax + first);
    if (abssum != NULL)
        COPY(s.abssum, abssum + first);
    if (min != NULL)
        COPY(s.min, min + first);
    if (max != NULL)
        COPY(s.max, max + first);
    for (int64_t r = 0; r < rows; r++)
        add_row(&s, count, x + r * n + first);
    if (absmax != NULL)
        COPY(absmax + first, s.absmax);
    if (abssum != NULL)
        COPY(abssum + first, s.abssum);
    if (min != NULL)
        COPY(min + first, s.min);
    if (max != NULL)
        COPY(max + first, s.max);
}

void QP_NAME(qp_column_stats)(int64_t rows, int64_t n, const float *x, float *absmax, double *abssum, float *min,
                              float *max)
{
#pragma omp parallel for if (rows * n >= QP_PARALLEL_ELEMENTS)
    for (int64_t first = 0; first < n; first += STRIP)
        scan(rows, n, first, x, absmax, abssum, min, max);
}
