#include "stages/calibrate/asymmetry.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"

enum { PERIOD = 8 };

/* What is summed up, [in, in] each. */
enum sum { ASYMMETRY, HELD_ASYMMETRY, HELD_HESSIAN, SUMS };
static const char *const names[SUMS] = {"asymmetry", "held_asymmetry", "held_hessian"};

struct site {
    struct qp_tensor *sums[SUMS]; /* NULL: not its step */
    float *x;                     /* [tokens, in]: after quantized layers */
    int64_t came, compared;       /* rows of the part */
    int64_t seen;                 /* rows compared so far */
};

struct qp_asymmetry {
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
    return s->x ? 0 : QP_ERR_SPACE;
}

int qp_asymmetry_open(struct qp_stage *stage, const struct qp_block *block, const struct qp_windows *windows,
                      int64_t tokens, struct qp_asymmetry **out, struct qp_error *err)
{
    if (windows->count < 2)
        return qp_fail(
            err, QP_ERR_INPUT,
            "asymmetry: found one window of calibration text; expected at least 2, as one is held out to judge "
            "what is learned from the others: ask for more samples");
    size_t size = sizeof(struct qp_asymmetry) + (size_t)block->type->site_count * sizeof(struct site);
    struct qp_asymmetry *asymmetry = calloc(1, size);
    if (!asymmetry)
        return qp_fail_memory(err, size, "asymmetry");
    asymmetry->count = block->type->site_count;
    asymmetry->kernels = qp_stage_kernels(stage);
    asymmetry->windows = windows->count;
    asymmetry->length = windows->length;
    asymmetry->period = windows->count < PERIOD ? windows->count : PERIOD;
    int64_t widest = 0;
    int r = 0;
    for (int i = 0; i < asymmetry->count && r == 0; i++) {
        int64_t in = block->type->sites[i].in;
        widest = in > widest ? in : widest;
        if (qp_block_has_step(block, i))
            r = open_site(stage, block, i, tokens, &asymmetry->sites[i], err);
    }
    if (r == 0 && !(asymmetry->difference = qp_new_floats(tokens * widest, "a site's inputs", err)))
        r = QP_ERR_SPACE;
    if (r < 0) {
        qp_asymmetry_free(asymmetry);
        return r;
    }
    *out = asymmetry;
    return 0;
}

void qp_asymmetry_free(struct qp_asymmetry *asymmetry)
{
    if (!asymmetry)
        return;
    for (int i = 0; i < asymmetry->count; i++) {
        for (int k = 0; k < SUMS; k++)
            qp_tensor_unref(asymmetry->sites[i].sums[k]);
        free(asymmetry->sites[i].x);
    }
    free(asymmetry->difference);
    free(asymmetry);
}

void qp_asymmetry_begin(struct qp_asymmetry *asymmetry)
{
    for (int i = 0; i < asymmetry->count; i++)
        asymmetry->sites[i].came = asymmetry->sites[i].compared = 0;
}

void qp_asymmetry_quantized(struct qp_asymmetry *asymmetry, int site, enum qp_dtype dtype, const void *x, int64_t rows,
                            int64_t in)
{
    struct site *s = &asymmetry->sites[site];
    if (!s->x)
        return;
    asymmetry->kernels->to_f32(dtype, rows * in, x, s->x + s->came * in);
    s->came += rows;
}

static bool is_held(const struct qp_asymmetry *asymmetry, int64_t window)
{
    return window % asymmetry->period == asymmetry->period - 1;
}

/* How many of the next rows are of windows that are held out alike. */
static int64_t run_of(const struct qp_asymmetry *asymmetry, int64_t seen, int64_t rows)
{
    int64_t window = seen / asymmetry->length, end = window + 1;
    while (is_held(asymmetry, end) == is_held(asymmetry, window) && end * asymmetry->length < seen + rows)
        end++;
    int64_t count = end * asymmetry->length - seen;
    return count < rows ? count : rows;
}

static void add(const struct qp_asymmetry *asymmetry, struct site *s, const float *quantized, const float *difference,
                int64_t rows, int64_t in)
{
    bool held = is_held(asymmetry, s->seen / asymmetry->length);
    float *sum = s->sums[held ? HELD_ASYMMETRY : ASYMMETRY]->data;
    asymmetry->kernels->gemm(
        &(struct qp_gemm){true, false, in, in, rows, 1.0f, difference, in, quantized, in, 1.0f, sum, in});
    if (held)
        asymmetry->kernels->hessian(rows, in, quantized, s->sums[HELD_HESSIAN]->data);
    s->seen += rows;
}

int qp_asymmetry_original(void *context, int site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct qp_asymmetry *asymmetry = context;
    struct site *s = &asymmetry->sites[site];
    if (!s->x)
        return 0;
    const float *quantized = s->x + s->compared * in;
    for (int64_t i = 0; i < rows * in; i++)
        asymmetry->difference[i] = x[i] - quantized[i];
    for (int64_t at = 0, count; at < rows; at += count) {
        count = run_of(asymmetry, s->seen, rows - at);
        add(asymmetry, s, quantized + at * in, asymmetry->difference + at * in, count, in);
    }
    s->compared += rows;
    return 0;
}

static int put_site(const struct qp_asymmetry *asymmetry, struct site *s, struct qp_unit *unit, struct qp_error *err)
{
    int64_t held = asymmetry->windows / asymmetry->period;
    float share = (float)asymmetry->windows / (float)(asymmetry->windows - held), *sum = s->sums[ASYMMETRY]->data;
    for (int64_t i = 0; i < s->sums[ASYMMETRY]->elements; i++)
        sum[i] *= share;
    asymmetry->kernels->mirror(s->sums[HELD_HESSIAN]->shape[0], s->sums[HELD_HESSIAN]->data);
    int r = 0;
    for (int k = 0; k < SUMS && r == 0; k++) {
        struct qp_tensor *t = s->sums[k];
        s->sums[k] = NULL;
        r = qp_unit_put(unit, t, err);
    }
    return r;
}

int qp_asymmetry_put(struct qp_asymmetry *asymmetry, struct qp_unit *unit, struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < asymmetry->count && r == 0; i++)
        if (asymmetry->sites[i].x)
            r = put_site(asymmetry, &asymmetry->sites[i], unit, err);
    return r;
}
