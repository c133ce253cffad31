#include "stages/calibrate/statistics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/scratch.h"
#include "libstage/base/memory.h"
#include "libstage/calibration/histogram.h"
#include "libstage/tensor/operations.h"

enum { SAMPLES_MAX = 256 };

/* Statistics of a site; the order of qp_statistics_names. */
enum kind {
    HESSIAN,
    ABSMAX,
    ABSMEAN,
    MIN,
    MAX,
    SAMPLES,
    HISTOGRAM,
    TOKEN_ABSMAX,
    WINDOW_MIN,
    WINDOW_MAX,
    BLOCK_HISTOGRAM,
    SITE_KINDS
};

const char *const qp_statistics_names[] = {
    "hessian",    "absmax",     "absmean",         "min",       "max", "samples", "histogram", "token_absmax",
    "window_min", "window_max", "block_histogram", "kv_absmax", NULL};

/* What nobody wants is NULL. */
struct site {
    int64_t in;
    float *hessian; /* [in, in], its upper triangle; packed when it is complete */
    struct qp_tensor *stats[SITE_KINDS];
    double *abssum;
    double token_sum; /* of each token's max |x| */
    int64_t tokens;
};

struct qp_statistics {
    const struct qp_kernels *kernels;
    int64_t windows, length; /* of the text */
    struct qp_tensor *key_absmax, *value_absmax;
    int count;
    struct site sites[];
};

bool qp_statistics_wanted(const struct qp_stage *stage)
{
    for (size_t i = 0; qp_statistics_names[i]; i++)
        if (qp_stage_wants(stage, qp_statistics_names[i]))
            return true;
    return false;
}

static float *values(struct qp_tensor *tensor)
{
    return tensor ? tensor->data : NULL;
}

/* ---- opening ---- */

struct form {
    int rank;
    const int64_t *shape;
    float fill; /* what all numbers are at first */
};

/* A tensor B.MODULE.WHAT. */
static int new_stat(struct qp_stage *stage, const struct qp_block *block, const char *module, const char *what,
                    const struct form *form, struct qp_tensor **out, struct qp_error *err)
{
    char name[256];
    qp_block_name(block, module, what, name, sizeof name);
    int r = qp_allocate(qp_stage_allocator(stage), name, QP_F32, form->rank, form->shape, out, err);
    if (r < 0)
        return r;
    for (int64_t i = 0; i < (*out)->elements; i++)
        values(*out)[i] = form->fill;
    return 0;
}

/* The shape of a statistic of `in` channels; returns its rank. */
static int shape_of(const struct qp_statistics *s, enum kind kind, int64_t in, int64_t shape[2])
{
    int64_t tokens = s->windows * s->length;
    shape[0] = in;
    shape[1] = in;
    switch (kind) {
    case SAMPLES:
        shape[0] = tokens < SAMPLES_MAX ? tokens : SAMPLES_MAX;
        return 2;
    case HISTOGRAM:
        shape[1] = QP_LOG_BINS;
        return 2;
    case WINDOW_MIN:
    case WINDOW_MAX:
        shape[0] = s->windows;
        return 2;
    case BLOCK_HISTOGRAM:
        shape[0] = QP_BLOCK_BINS;
        return 1;
    case TOKEN_ABSMAX:
        shape[0] = 1;
        return 1;
    default:
        return 1;
    }
}

static size_t square(int64_t n)
{
    return (size_t)(n * n) * sizeof(float);
}

static int open_site(struct qp_stage *stage, const struct qp_block *block, struct qp_statistics *s, int site,
                     struct qp_error *err)
{
    const struct qp_site *desc = &block->type->sites[site];
    struct site *t = &s->sites[site];
    int64_t shape[2], in = desc->in;
    int r = 0;
    for (int k = 0; k < SITE_KINDS && r == 0; k++) {
        float fill = k == MIN || k == WINDOW_MIN ? INFINITY : k == MAX || k == WINDOW_MAX ? -INFINITY : 0.0f;
        int rank = shape_of(s, (enum kind)k, in, shape);
        if (k != HESSIAN && qp_stage_wants(stage, qp_statistics_names[k]))
            r = new_stat(stage, block, desc->name, qp_statistics_names[k], &(struct form){rank, shape, fill},
                         &t->stats[k], err);
    }
    t->in = in;
    if (r == 0 && qp_stage_wants(stage, "hessian") && !(t->hessian = qp_new_sparse(square(in), "a Hessian", err)))
        r = QP_ERR_SPACE;
    if (r < 0 || !t->stats[ABSMEAN])
        return r;
    t->abssum = qp_new_array(in, sizeof(double), "a site's statistics", err);
    if (!t->abssum)
        return QP_ERR_SPACE;
    memset(t->abssum, 0, (size_t)in * sizeof(double));
    return 0;
}

static int open_cache(struct qp_stage *stage, const struct qp_block *block, struct qp_statistics *s,
                      struct qp_error *err)
{
    int64_t dim = (int64_t)block->type->attention.kv_heads * block->type->attention.head_dim;
    if (!qp_stage_wants(stage, "kv_absmax"))
        return 0;
    int r = new_stat(stage, block, "kv", "key_absmax", &(struct form){1, &dim, 0.0f}, &s->key_absmax, err);
    return r < 0 ? r
                 : new_stat(stage, block, "kv", "value_absmax", &(struct form){1, &dim, 0.0f}, &s->value_absmax, err);
}

int qp_statistics_open(struct qp_stage *stage, const struct qp_block *block, const struct qp_windows *windows,
                       struct qp_statistics **out, struct qp_error *err)
{
    size_t size = sizeof(struct qp_statistics) + (size_t)block->type->site_count * sizeof(struct site);
    struct qp_statistics *s = calloc(1, size);
    if (!s)
        return qp_fail_memory(err, size, "statistics");
    s->count = block->type->site_count;
    s->kernels = qp_stage_kernels(stage);
    s->windows = windows->count;
    s->length = windows->length;
    int r = block->step <= 1 ? open_cache(stage, block, s, err) : 0;
    for (int i = 0; i < s->count && r == 0; i++)
        if (qp_block_has_step(block, i))
            r = open_site(stage, block, s, i, err);
    if (r < 0) {
        qp_statistics_free(s);
        return r;
    }
    *out = s;
    return 0;
}

/* ---- collecting ---- */

static float largest(const float *x, int64_t count)
{
    float most = 0.0f;
    for (int64_t i = 0; i < count; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* Sample k of n is the token in the middle of the k-th of n equal parts of the text. */
static void take_samples(const struct qp_statistics *s, const struct site *t, const float *x, int64_t rows, int64_t in)
{
    struct qp_tensor *samples = t->stats[SAMPLES];
    int64_t n = samples->shape[0], total = s->windows * s->length;
    for (int64_t k = 0; k < n; k++) {
        int64_t row = (2 * k + 1) * total / (2 * n) - t->tokens;
        if (row >= 0 && row < rows)
            memcpy(values(samples) + k * in, x + row * in, (size_t)in * sizeof *x);
    }
}

/* Chunks are whole windows. */
static void take_windows(const struct qp_statistics *s, const struct site *t, const float *x, int64_t rows, int64_t in)
{
    for (int64_t row = 0; row < rows; row += s->length) {
        const int64_t at = (t->tokens + row) / s->length * in;
        float *least = values(t->stats[WINDOW_MIN]), *most = values(t->stats[WINDOW_MAX]);
        s->kernels->column_stats(s->length, in, x + row * in, NULL, NULL, least ? least + at : NULL,
                                 most ? most + at : NULL);
    }
}

/* All but the Hessian, of numbers in float32. */
static void add_values(struct qp_statistics *s, struct site *t, const float *x, int64_t rows, int64_t in)
{
    struct qp_tensor **stats = t->stats;
    if (stats[ABSMAX] || t->abssum || stats[MIN] || stats[MAX])
        s->kernels->column_stats(rows, in, x, values(stats[ABSMAX]), t->abssum, values(stats[MIN]), values(stats[MAX]));
    if (stats[SAMPLES])
        take_samples(s, t, x, rows, in);
    if (stats[HISTOGRAM])
        qp_histogram_add(rows, in, x, values(stats[HISTOGRAM]));
    if (stats[WINDOW_MIN] || stats[WINDOW_MAX])
        take_windows(s, t, x, rows, in);
    if (stats[BLOCK_HISTOGRAM])
        qp_block_histogram_add(rows, in, x, values(stats[BLOCK_HISTOGRAM]));
    for (int64_t i = 0; stats[TOKEN_ABSMAX] && i < rows; i++)
        t->token_sum += largest(x + i * in, in);
    t->tokens += rows;
}

static bool wants_values(const struct site *t)
{
    for (int k = HESSIAN + 1; k < SITE_KINDS; k++)
        if (t->stats[k])
            return true;
    return false;
}

int qp_statistics_site(void *statistics, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct qp_statistics *s = statistics;
    struct site *t = &s->sites[site];
    if (t->hessian)
        s->kernels->hessian(rows, in, x, t->hessian);
    add_values(s, t, x, rows, in);
    return 0;
}

int qp_statistics_site_bf16(void *statistics, int site, const uint16_t *x, int64_t rows, int64_t in,
                            struct qp_error *err)
{
    struct qp_statistics *s = statistics;
    struct site *t = &s->sites[site];
    if (t->hessian)
        s->kernels->hessian_bf16(rows, in, x, t->hessian);
    if (!wants_values(t)) {
        t->tokens += rows;
        return 0;
    }
    float *wide = qp_scratch_borrow((size_t)(rows * in), sizeof *wide);
    if (!wide)
        return qp_operations_check(QP_ERR_SPACE, err);
    s->kernels->to_f32(QP_BF16, rows * in, x, wide);
    add_values(s, t, wide, rows, in);
    qp_scratch_return(wide);
    return 0;
}

int qp_statistics_cache(void *statistics, const float *keys, const float *vals, int64_t rows, int64_t dim,
                        struct qp_error *err)
{
    (void)err;
    struct qp_statistics *s = statistics;
    if (!s->key_absmax)
        return 0;
    s->kernels->column_stats(rows, dim, keys, values(s->key_absmax), NULL, NULL, NULL);
    s->kernels->column_stats(rows, dim, vals, values(s->value_absmax), NULL, NULL, NULL);
    return 0;
}

/* ---- handing over ---- */

/* Moves a finished statistic into the unit. */
static int put(struct qp_unit *unit, struct qp_tensor **tensor, struct qp_error *err)
{
    struct qp_tensor *t = *tensor;
    *tensor = NULL;
    return t ? qp_unit_put(unit, t, err) : 0;
}

/* The upper triangle of a site's Hessian, and frees that. */
static int pack_hessian(struct qp_stage *stage, const struct qp_block *block, const char *module, struct site *t,
                        struct qp_error *err)
{
    char name[256];
    int64_t n = t->in, numbers = qp_triangle_row(n, n);
    if (!t->hessian)
        return 0;
    qp_block_name(block, module, "hessian", name, sizeof name);
    int r = qp_allocate(qp_stage_allocator(stage), name, QP_F32, 1, &numbers, &t->stats[HESSIAN], err);
    if (r < 0)
        return r;
    float *packed = values(t->stats[HESSIAN]);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        memcpy(packed + qp_triangle_row(n, i), t->hessian + i * n + i, (size_t)(n - i) * sizeof *packed);
    qp_free_sparse(t->hessian, square(n));
    t->hessian = NULL;
    return 0;
}

static int put_site(struct site *t, struct qp_unit *unit, struct qp_error *err)
{
    struct qp_tensor *absmean = t->stats[ABSMEAN];
    for (int64_t i = 0; absmean && i < absmean->elements; i++)
        values(absmean)[i] = (float)(t->abssum[i] / (double)t->tokens);
    if (t->stats[TOKEN_ABSMAX])
        *values(t->stats[TOKEN_ABSMAX]) = (float)(t->token_sum / (double)t->tokens);
    int r = 0;
    for (int k = 0; k < SITE_KINDS && r == 0; k++)
        r = put(unit, &t->stats[k], err);
    return r;
}

int qp_statistics_put(struct qp_statistics *s, struct qp_stage *stage, struct qp_block *block, struct qp_error *err)
{
    struct qp_unit *unit = block->unit;
    int r = put(unit, &s->key_absmax, err);
    if (r == 0)
        r = put(unit, &s->value_absmax, err);
    for (int i = 0; i < s->count && r == 0; i++)
        r = pack_hessian(stage, block, block->type->sites[i].name, &s->sites[i], err);
    for (int i = 0; i < s->count && r == 0; i++)
        r = put_site(&s->sites[i], unit, err);
    if (r == 0 && json_object_set_new(unit->attrs, "tokens", json_integer(s->sites[0].tokens)) < 0)
        return qp_fail_memory(err, 0, "statistics");
    return r;
}

void qp_statistics_free(struct qp_statistics *s)
{
    for (int i = 0; s && i < s->count; i++) {
        for (int k = 0; k < SITE_KINDS; k++)
            qp_tensor_unref(s->sites[i].stats[k]);
        free(s->sites[i].abssum);
        qp_free_sparse(s->sites[i].hessian, square(s->sites[i].in));
    }
    if (s) {
        qp_tensor_unref(s->key_absmax);
        qp_tensor_unref(s->value_absmax);
    }
    free(s);
}
