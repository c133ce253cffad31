#include "stages/calibrate/drift.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"

enum { PERIOD = 8 };

/* What is summed up, [in, in] each. */
enum sum { DRIFT, HELD_DRIFT, HELD_MOMENT, SUMS };
static const char *const names[SUMS] = {"drift", "held_drift", "held_moment"};

struct site {
    struct qp_tensor *sums[SUMS]; /* NULL: not its turn */
    float *x;                     /* [tokens, in]: behind quantized layers */
    int64_t came, compared;       /* rows of the part */
    int64_t seen;                 /* rows compared so far */
};

struct qp_drift {
    const struct qp_kernels *kernels;
    int64_t windows, length; /* of the text */
    int64_t period;          /* the last window of each `period` is held out */
    float *difference;       /* [tokens, largest in] */
    int count;
    struct site sites[];
};

static int open_site(struct qp_stage *stage, const struct qp_block *block, int site, int64_t tokens, struct site *s,
                     struct qp_error *err)
{
    const struct qp_site *desc = &block->type->sites[site];
    int64_t in = desc->in, shape[] = {in, in};
    for (int k = 0; k < SUMS; k++) {
        char name[256];
        qp_block_name(block, desc->name, names[k], name, sizeof name);
        int r = qp_allocate(qp_stage_allocator(stage), name, QP_F32, 2, shape, &s->sums[k], err);
        if (r < 0)
            return r;
        memset(s->sums[k]->data, 0, s->sums[k]->bytes);
    }
    s->x = qp_new_floats(tokens * in, "a site's inputs", err);
    return s->x ? 0 : QP_ERR_ROOM;
}

int qp_drift_open(struct qp_stage *stage, const struct qp_block *block, const struct qp_windows *windows,
                  int64_t tokens, struct qp_drift **out, struct qp_error *err)
{
    if (windows->count < 2)
        return qp_fail(err, QP_ERR_INPUT,
                       "drift: found one window of calibration text; expected at least 2, as one is held out to judge "
                       "what is learned from the others: ask for more samples");
    size_t size = sizeof(struct qp_drift) + (size_t)block->type->site_count * sizeof(struct site);
    struct qp_drift *drift = calloc(1, size);
    if (!drift)
        return qp_fail_memory(err, size, "drift");
    drift->count = block->type->site_count;
    drift->kernels = qp_stage_kernels(stage);
    drift->windows = windows->count;
    drift->length = windows->length;
    drift->period = windows->count < PERIOD ? windows->count : PERIOD;
    int64_t widest = 0;
    int r = 0;
    for (int i = 0; i < drift->count && r == 0; i++) {
        int64_t in = block->type->sites[i].in;
        widest = in > widest ? in : widest;
        if (qp_block_has_turn(block, i))
            r = open_site(stage, block, i, tokens, &drift->sites[i], err);
    }
    if (r == 0 && !(drift->difference = qp_new_floats(tokens * widest, "a site's inputs", err)))
        r = QP_ERR_ROOM;
    if (r < 0) {
        qp_drift_free(drift);
        return r;
    }
    *out = drift;
    return 0;
}

void qp_drift_free(struct qp_drift *drift)
{
    if (!drift)
        return;
    for (int i = 0; i < drift->count; i++) {
        for (int k = 0; k < SUMS; k++)
            qp_tensor_unref(drift->sites[i].sums[k]);
        free(drift->sites[i].x);
    }
    free(drift->difference);
    free(drift);
}

void qp_drift_begin(struct qp_drift *drift)
{
    for (int i = 0; i < drift->count; i++)
        drift->sites[i].came = drift->sites[i].compared = 0;
}

void qp_drift_quantized(struct qp_drift *drift, int site, enum qp_dtype dtype, const void *x, int64_t rows, int64_t in)
{
    struct site *s = &drift->sites[site];
    if (!s->x)
        return;
    drift->kernels->to_f32(dtype, rows * in, x, s->x + s->came * in);
    s->came += rows;
}

static bool is_held(const struct qp_drift *drift, int64_t window)
{
    return window % drift->period == drift->period - 1;
}

/* How many of the next rows are of windows that are held out alike. */
static int64_t run_of(const struct qp_drift *drift, int64_t seen, int64_t rows)
{
    int64_t window = seen / drift->length, end = window + 1;
    while (is_held(drift, end) == is_held(drift, window) && end * drift->length < seen + rows)
        end++;
    int64_t count = end * drift->length - seen;
    return count < rows ? count : rows;
}

static void add(const struct qp_drift *drift, struct site *s, const float *quantized, const float *difference,
                int64_t rows, int64_t in)
{
    bool held = is_held(drift, s->seen / drift->length);
    float *sum = s->sums[held ? HELD_DRIFT : DRIFT]->data;
    drift->kernels->gemm(true, false, in, in, rows, 1.0f, difference, in, quantized, in, 1.0f, sum, in);
    if (held)
        drift->kernels->second_moment(rows, in, quantized, s->sums[HELD_MOMENT]->data);
    s->seen += rows;
}

int qp_drift_original(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct qp_drift *drift = context;
    struct site *s = &drift->sites[site];
    if (!s->x)
        return 0;
    const float *quantized = s->x + s->compared * in;
    for (int64_t i = 0; i < rows * in; i++)
        drift->difference[i] = x[i] - quantized[i];
    for (int64_t at = 0, count; at < rows; at += count) {
        count = run_of(drift, s->seen, rows - at);
        add(drift, s, quantized + at * in, drift->difference + at * in, count, in);
    }
    s->compared += rows;
    return 0;
}

static int put_site(const struct qp_drift *drift, struct site *s, struct qp_unit *unit, struct qp_error *err)
{
    int64_t held = drift->windows / drift->period;
    float share = (float)drift->windows / (float)(drift->windows - held), *sum = s->sums[DRIFT]->data;
    for (int64_t i = 0; i < s->sums[DRIFT]->elements; i++)
        sum[i] *= share;
    drift->kernels->mirror(s->sums[HELD_MOMENT]->shape[0], s->sums[HELD_MOMENT]->data);
    int r = 0;
    for (int k = 0; k < SUMS && r == 0; k++) {
        struct qp_tensor *t = s->sums[k];
        s->sums[k] = NULL;
        r = qp_unit_put(unit, t, err);
    }
    return r;
}

int qp_drift_put(struct qp_drift *drift, struct qp_unit *unit, struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < drift->count && r == 0; i++)
        if (drift->sites[i].x)
            r = put_site(drift, &drift->sites[i], unit, err);
    return r;
}
