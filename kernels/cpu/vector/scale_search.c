#include <stdlib.h>
#include <string.h>

#include "kernels/candidates.h"
#include "kernels/cpu/vector/vector.h"
#include "kernels/failure.h"
#include "kernels/scratch.h"

/* Sums go over 16 parts, as in the reference, in one register or two; rows of H are read once for BATCH candidates. */
enum { PARTS = 16, REGISTERS = PARTS / LANES, BATCH = 8 };

/* A number format in registers. Floats are rounded by a sum whose last place is the step of the number's binade:
 * `least` is the smallest normal number, `up` the power of two from a binade to the one with that last place. */
struct lattice {
    vf min, max, least, up;
    bool integers;
};

static struct lattice lattice_of(const struct qp_number_format *format)
{
    const struct qp_small_float *f = qp_code_format(format->codes);
    return (struct lattice){v_set(qp_format_min(format)), v_set(qp_format_max(format)),
                            v_set(qp_bits_float((uint32_t)(128 - f->bias) << 23)),
                            v_set((float)(1 << (23 - f->mantissa))), format->codes == QP_I8};
}

static inline vf round_float(const struct lattice *l, vf x)
{
    vf binade = V(and_ps)(x, v_set(INFINITY)); /* the bits of the exponent */
    vf sign = V(and_ps)(x, v_set(-0.0f));
    vf shift = V(or_ps)(v_max(binade, l->least) * l->up, sign);
    return (x + shift) - shift;
}

/* dequantize(quantize(w)) - w. */
static inline vf deviation(const struct lattice *l, vf w, vf scale, vf zero)
{
    if (l->integers)
        return (v_rint(v_min(v_max(w / scale + zero, l->min), l->max)) - zero) * scale - w;
    return round_float(l, v_min(v_max(w / scale, l->min), l->max)) * scale - w;
}

/* The same of integers, where `near` holds: a division by products, to the last bit. */
static inline __attribute__((always_inline)) vf near_deviation(const struct lattice *l, vf w, vf scale, vf inverse,
                                                               vf zero, bool symmetric)
{
    vf code = v_quotient(w, scale, inverse);
    if (symmetric)
        return v_rint(v_min(v_max(code, l->min), l->max)) * scale - w;
    return (v_rint(v_min(v_max(code + zero, l->min), l->max)) - zero) * scale - w;
}

/* The groups of a matrix, each filled up with zeros to `width`, a multiple of PARTS. */
struct search {
    const struct qp_scale_search *s;
    struct lattice lattice;
    int64_t group, groups, width, capacity;
    float *importance; /* [groups, width] */
};

/* What a thread works with: a group's numbers, candidates, their errors, and the group's block of H. */
struct workbench {
    float *w, *d, *measure, *scale, *error, *h;
    int8_t *zero;
    int count;
    float largest; /* magnitude in w */
    bool selects;  /* the least error counts alone, and which candidate's it is */
    float *memory;
};

static struct workbench workbench_of(const struct search *t)
{
    size_t width = (size_t)t->width, capacity = (size_t)t->capacity, block = t->s->hessian == NULL ? 0 : width * width;
    struct workbench b = {.memory = qp_scratch((2 + BATCH) * width + 3 * capacity + block, sizeof(float))};

    if (b.memory == NULL)
        return b;
    b.w = b.memory;
    b.measure = b.w + width;
    b.d = b.measure + width;
    b.h = b.d + BATCH * width;
    b.scale = b.h + block;
    b.error = b.scale + capacity;
    b.zero = (int8_t *)(b.error + capacity);
    memset(b.zero, 0, capacity);
    return b;
}

static int64_t columns_of(const struct search *t, int64_t g)
{
    int64_t left = t->s->cols - g * t->group;
    return left < t->group ? left : t->group;
}

/* Copies count numbers, NaN as 0, with zeros after, and widens their range. */
static void take(struct workbench *b, const struct search *t, const float *w, int64_t count, float *min, float *max)
{
    vf least = v_set(*min), most = v_set(*max), none = v_set(0);

    for (int64_t j = 0; j < t->width; j += LANES) {
        vf x = j + LANES <= count ? v_load(w + j) : j < count ? v_load_part(w + j, count - j, 0) : none;
        x = v_without_nan(x);
        least = v_min(least, x);
        most = v_max(most, x);
        v_store(b->w + j, x);
    }
    *min = v_smallest(least);
    *max = v_largest(most);
    b->largest = -*min > *max ? -*min : *max;
}

static float fold(const vf *part)
{
    vf sum = part[0];
    for (int h = 1; h < REGISTERS; h++)
        sum = sum + part[h];
    return v_sum(sum);
}

static void deviate(const struct search *t, const struct workbench *b, int c, float *d)
{
    vf scale = v_set(b->scale[c]), zero = v_set(b->zero[c]);
    for (int64_t j = 0; j < t->width; j += LANES)
        v_store(d + j, deviation(&t->lattice, v_load(b->w + j), scale, zero));
}

/* Whether quotients of numbers up to `largest` by this scale, and what is left of them, are far from the ends of the
 * range of float32. */
static bool near(float largest, float scale)
{
    return largest <= 0x1p60f && scale >= 0x1p-60f && scale <= 0x1p60f;
}

/* Σ importance d² of candidate c; or, where the first half of the columns has more than `bound`, what they have: no
 * part of the sum ever falls. */
static inline __attribute__((always_inline)) float near_error(const struct search *t, const struct workbench *b, int c,
                                                              const float *importance, float bound, bool symmetric)
{
    vf part[REGISTERS] = {0}, scale = v_set(b->scale[c]), inverse = v_set(1 / b->scale[c]), zero = v_set(b->zero[c]);
    int64_t j = 0, half = t->width / PARTS / 2 * PARTS;

    for (int64_t end = half;; end = t->width) {
        for (; j < end; j += PARTS)
            for (int h = 0; h < REGISTERS; h++) {
                vf w = v_load(b->w + j + h * LANES);
                vf d = near_deviation(&t->lattice, w, scale, inverse, zero, symmetric);
                part[h] = part[h] + v_load(importance + j + h * LANES) * (d * d);
            }
        float sum = fold(part);
        if (j == t->width || sum > bound)
            return sum;
    }
}

static inline __attribute__((always_inline)) float squared_error(const struct search *t, const struct workbench *b,
                                                                 int c, const float *importance, bool integers)
{
    vf part[REGISTERS] = {0}, scale = v_set(b->scale[c]), zero = v_set(b->zero[c]);
    struct lattice l = t->lattice;

    l.integers = integers;
    for (int64_t j = 0; j < t->width; j += PARTS)
        for (int h = 0; h < REGISTERS; h++) {
            vf d = deviation(&l, v_load(b->w + j + h * LANES), scale, zero);
            part[h] = part[h] + v_load(importance + j + h * LANES) * (d * d);
        }
    return fold(part);
}

static void squared_errors(const struct search *t, struct workbench *b, const float *importance)
{
    bool symmetric = t->s->format->symmetric, integers = t->lattice.integers;
    float least = INFINITY;

    for (int c = 0; c < b->count; c++) {
        float bound = b->selects ? least : INFINITY;
        float error = !integers                        ? squared_error(t, b, c, importance, false)
                      : !near(b->largest, b->scale[c]) ? squared_error(t, b, c, importance, true)
                      : symmetric                      ? near_error(t, b, c, importance, bound, true)
                                                       : near_error(t, b, c, importance, bound, false);
        least = error < least ? error : least;
        b->error[c] = error;
    }
}

static void powered_errors(const struct search *t, struct workbench *b, const float *restrict importance)
{
    float *restrict d = b->d, *restrict measure = b->measure, norm = (float)t->s->norm;

    for (int c = 0; c < b->count; c++) {
        vf part[REGISTERS] = {0};
        deviate(t, b, c, d);
        for (int64_t j = 0; j < t->width; j++)
            measure[j] = importance[j] * qp_power(fabsf(d[j]), norm);
        for (int64_t j = 0; j < t->width; j += PARTS)
            for (int h = 0; h < REGISTERS; h++)
                part[h] = part[h] + v_load(measure + j + h * LANES);
        b->error[c] = fold(part);
    }
}

/* dᵀ H d of BATCH candidates: d H by LANES columns, which then meet d. */
static void quadratic_batch(const struct search *t, const struct workbench *b, float *error)
{
    const float *d = b->d;
    vf part[BATCH][REGISTERS] = {0};

    for (int64_t j = 0; j < t->width; j += LANES) {
        vf sum[BATCH] = {0};
        for (int64_t i = 0; i < t->width; i++) {
            vf h = v_load(b->h + i * t->width + j);
            for (int c = 0; c < BATCH; c++)
                sum[c] = sum[c] + v_set(d[c * t->width + i]) * h;
        }
        for (int c = 0; c < BATCH; c++)
            part[c][j / LANES % REGISTERS] = part[c][j / LANES % REGISTERS] + sum[c] * v_load(d + c * t->width + j);
    }
    for (int c = 0; c < BATCH; c++)
        error[c] = fold(part[c]);
}

static void quadratic_errors(const struct search *t, struct workbench *b)
{
    for (int c = 0; c < b->count; c += BATCH) {
        float error[BATCH];
        int n = b->count - c < BATCH ? b->count - c : BATCH;
        for (int k = 0; k < BATCH; k++)
            deviate(t, b, c + (k < n ? k : 0), b->d + k * t->width);
        quadratic_batch(t, b, error);
        memcpy(b->error + c, error, (size_t)n * sizeof *error);
    }
}

/* The errors of all candidates for the numbers in b->w, which are of group g. */
static void errors(const struct search *t, struct workbench *b, int64_t g)
{
    const float *importance = t->importance + g * t->width;

    if (t->s->hessian != NULL)
        quadratic_errors(t, b);
    else if (t->s->norm != 2)
        powered_errors(t, b, importance);
    else
        squared_errors(t, b, importance);
}

static void keep(const struct qp_scale_search *s, const struct workbench *b, int best, int64_t at)
{
    s->scale[at] = b->scale[best];
    if (s->zero != NULL)
        s->zero[at] = b->zero[best];
}

static void search_group(const struct search *t, struct workbench *b, int64_t r, int64_t g)
{
    const struct qp_scale_search *s = t->s;
    float min = 0, max = 0, least = INFINITY;
    int best = 0;

    take(b, t, s->w + r * s->cols + g * t->group, columns_of(t, g), &min, &max);
    b->count = qp_candidates(s, min, max, b->scale, b->zero);
    errors(t, b, g);
    for (int c = 0; c < b->count; c++)
        if (b->error[c] < least) {
            least = b->error[c];
            best = c;
        }
    keep(s, b, best, r * t->groups + g);
}

/* The group's block of H, zeros around it. */
static void take_block(const struct search *t, struct workbench *b, int64_t g)
{
    int64_t count = columns_of(t, g), cols = t->s->cols;
    const float *h = t->s->hessian + g * t->group * (cols + 1);

    memset(b->h, 0, (size_t)(t->width * t->width) * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        memcpy(b->h + i * t->width, h + i * cols, (size_t)count * sizeof(float));
}

/* A group of columns after the other, so that its block of H is copied once. Each thread has some of the rows. */
static void search_columns(const struct search *t, struct workbench *b)
{
    for (int64_t g = 0; g < t->groups; g++) {
        if (b->memory != NULL)
            take_block(t, b, g);
#pragma omp for nowait
        for (int64_t r = 0; r < t->s->rows; r++)
            if (b->memory != NULL && !qp_failure_is_set())
                search_group(t, b, r, g);
    }
}

static void search_rows(const struct search *t, struct workbench *b)
{
#pragma omp for nowait
    for (int64_t r = 0; r < t->s->rows; r++)
        for (int64_t g = 0; g < t->groups && b->memory != NULL && !qp_failure_is_set(); g++)
            search_group(t, b, r, g);
}

static void search_groups(const struct search *t)
{
    const struct qp_scale_search *s = t->s;

#pragma omp parallel if (s->rows * s->cols >= QP_PARALLEL_ELEMENTS / 16)
    {
        struct workbench b = workbench_of(t);

        b.selects = true;
        if (s->hessian != NULL)
            search_columns(t, &b);
        else
            search_rows(t, &b);
        free(b.memory);
    }
}

static void range_of_all(const struct search *t, struct workbench *b, float *min, float *max)
{
    *min = *max = 0;
    for (int64_t r = 0; r < t->s->rows; r++)
        take(b, t, t->s->w + r * t->s->cols, t->s->cols, min, max);
}

/* error[rows, candidates], each thread with a workspace of its own. */
static void errors_of_rows(const struct search *t, const struct workbench *all, float *error)
{
    const struct qp_scale_search *s = t->s;

#pragma omp parallel if (s->rows * s->cols >= QP_PARALLEL_ELEMENTS / 16)
    {
        struct workbench b = workbench_of(t);
        float ignored[2] = {0, 0};

        if (b.memory != NULL) {
            b.count = all->count;
            memcpy(b.scale, all->scale, (size_t)b.count * sizeof *b.scale);
            memcpy(b.zero, all->zero, (size_t)b.count);
        }
#pragma omp for
        for (int64_t r = 0; r < s->rows; r++) {
            if (b.memory == NULL || qp_failure_is_set())
                continue;
            take(&b, t, s->w + r * s->cols, s->cols, &ignored[0], &ignored[1]);
            errors(t, &b, 0);
            memcpy(error + r * b.count, b.error, (size_t)b.count * sizeof *error);
        }
        free(b.memory);
    }
}

/* The candidate whose errors, added up in order of the rows, are least. */
static int least_candidate(int64_t rows, int count, const float *error)
{
    double least = INFINITY;
    int best = 0;

    for (int c = 0; c < count; c++) {
        double sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += (double)error[r * count + c];
        if (sum < least) {
            least = sum;
            best = c;
        }
    }
    return best;
}

/* One scale for all. */
static void search_all(const struct search *t)
{
    struct workbench all = workbench_of(t);
    float min, max;

    if (all.memory == NULL)
        return;
    range_of_all(t, &all, &min, &max);
    all.count = qp_candidates(t->s, min, max, all.scale, all.zero);
    float *error = qp_scratch((size_t)(t->s->rows * all.count), sizeof *error);
    if (error != NULL) {
        errors_of_rows(t, &all, error);
        keep(t->s, &all, least_candidate(t->s->rows, all.count, error), 0);
    }
    free(error);
    free(all.memory);
}

static float *filled_importance(const struct search *t)
{
    float *importance = qp_scratch((size_t)(t->groups * t->width), sizeof *importance);

    if (importance == NULL)
        return NULL;
    memset(importance, 0, (size_t)(t->groups * t->width) * sizeof *importance);
    for (int64_t g = 0; g < t->groups; g++)
        for (int64_t j = 0; j < columns_of(t, g); j++)
            importance[g * t->width + j] = t->s->importance == NULL ? 1 : t->s->importance[g * t->group + j];
    return importance;
}

void QP_NAME(qp_scale_search)(const struct qp_scale_search *s)
{
    int64_t group = s->group == 0 ? s->cols : s->group < s->cols ? s->group : s->cols;
    struct search t = {.s = s,
                       .lattice = lattice_of(s->format),
                       .group = group,
                       .groups = qp_groups(s->cols, s->group),
                       .width = (group + PARTS - 1) / PARTS * PARTS,
                       .capacity = qp_candidate_count(s)};

    t.importance = filled_importance(&t);
    if (t.importance == NULL)
        return;
    if (s->group == 0)
        search_all(&t);
    else
        search_groups(&t);
    free(t.importance);
}
