#include "stages/calibrate/drift.h"

#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"

struct site {
    struct qp_tensor *sum;  /* [in, in]; NULL: not its turn */
    float *x;               /* [tokens, in]: behind quantized layers */
    int64_t came, compared; /* rows of the part */
};

struct qp_drift {
    const struct qp_kernels *kernels;
    float *difference; /* [tokens, largest in] */
    struct site sites[QP_SITES];
};

static int open_site(struct qp_stage *stage, const struct qp_block *block, int site, int64_t tokens, struct site *s,
                     struct qp_error *err)
{
    const struct qp_site_desc *desc = &block->arch->family->sites[site];
    int64_t in = qp_arch_dim(block->arch, desc->dim), shape[] = {in, in};
    char name[256];
    qp_block_name(block, desc->name, "drift", name, sizeof name);
    int r = qp_allocate(qp_stage_allocator(stage), name, QP_F32, 2, shape, &s->sum, err);
    if (r < 0)
        return r;
    memset(s->sum->data, 0, s->sum->bytes);
    s->x = qp_new_floats(tokens * in, "a site's inputs", err);
    return s->x ? 0 : QP_ERR_ROOM;
}

int qp_drift_open(struct qp_stage *stage, const struct qp_block *block, int64_t tokens, struct qp_drift **out,
                  struct qp_error *err)
{
    struct qp_drift *drift = calloc(1, sizeof *drift);
    if (!drift)
        return qp_fail_memory(err, sizeof *drift, "drift");
    drift->kernels = qp_stage_kernels(stage);
    int64_t widest = 0;
    int r = 0;
    for (int i = 0; i < QP_SITES && r == 0; i++) {
        int64_t in = qp_arch_dim(block->arch, block->arch->family->sites[i].dim);
        widest = in > widest ? in : widest;
        if (qp_block_has_turn(block, (enum qp_site)i))
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
    for (int i = 0; i < QP_SITES; i++) {
        qp_tensor_unref(drift->sites[i].sum);
        free(drift->sites[i].x);
    }
    free(drift->difference);
    free(drift);
}

void qp_drift_begin(struct qp_drift *drift)
{
    for (int i = 0; i < QP_SITES; i++)
        drift->sites[i].came = drift->sites[i].compared = 0;
}

void qp_drift_quantized(struct qp_drift *drift, enum qp_site site, enum qp_dtype dtype, const void *x, int64_t rows,
                        int64_t in)
{
    struct site *s = &drift->sites[site];
    if (!s->sum)
        return;
    drift->kernels->to_f32(dtype, rows * in, x, s->x + s->came * in);
    s->came += rows;
}

int qp_drift_original(void *context, enum qp_site site, const float *x, int64_t rows, int64_t in, struct qp_error *err)
{
    (void)err;
    struct qp_drift *drift = context;
    struct site *s = &drift->sites[site];
    if (!s->sum)
        return 0;
    const float *quantized = s->x + s->compared * in;
    for (int64_t i = 0; i < rows * in; i++)
        drift->difference[i] = x[i] - quantized[i];
    drift->kernels->gemm(true, false, in, in, rows, 1.0f, drift->difference, in, quantized, in, 1.0f, s->sum->data, in);
    s->compared += rows;
    return 0;
}

int qp_drift_put(struct qp_drift *drift, struct qp_unit *unit, struct qp_error *err)
{
    int r = 0;
    for (int i = 0; i < QP_SITES && r == 0; i++) {
        if (!drift->sites[i].sum)
            continue;
        r = qp_unit_put(unit, drift->sites[i].sum, err);
        drift->sites[i].sum = NULL;
    }
    return r;
}
