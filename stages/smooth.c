/* smooth: moves the difficulty of quantizing activations into the weights, by per-channel scales that the norms absorb.
 *
 * smoothquant (Xiao et al. 2023, equation 4), for each site behind a norm, over the linears that read it:
 *   s[j] = max|x[j]|^alpha / max|W[:, j]|^(1 - alpha), at least 1e-5;  W[:, j] *= s[j], gain[j] /= s[j].
 * In: blocks with absmax; out: the same with folds. Memory: one linear's weights. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"

#define SMALLEST_SCALE 1e-5f /* of the original implementation, for scales and for weights' maxima */

struct state {
    const char *method;
    double alpha;
    struct qp_model model;
};

static const char *const methods[] = {"none", "smoothquant", NULL};
static const struct qp_param params[] = {
    {.name = "method",
     .type = QP_PARAM_STRING,
     .fallback = "none",
     .choices = methods,
     .help = "none leaves the network as it is; smoothquant scales the sites behind norms",
     .offset = offsetof(struct state, method)},
    {.name = "alpha",
     .type = QP_PARAM_FLOAT,
     .fallback = "0.5",
     .min = 0.0,
     .max = 1.0,
     .help = "migration strength: 0 leaves all difficulty in the activations, 1 moves all into the weights",
     .offset = offsetof(struct state, alpha)},
    {0}};
static const struct qp_need stage_needs[] = {{.what = "absmax", .param = "method", .value = "smoothquant"}, {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks with statistics"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same with folds"}, {0}};

/* columns[j] = max(columns[j], max over rows of |w[:, j]|) over all linears of the site. */
static int weight_maxima(const struct qp_block *block, enum qp_site site, int64_t in, float *columns,
                         struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    for (int64_t j = 0; j < in; j++)
        columns[j] = 0.0f;
    for (int i = 0; i < QP_LINEARS; i++) {
        if (arch->family->linears[i].site != site)
            continue;
        int64_t out = qp_arch_dim(arch, arch->family->linears[i].out);
        float *w = qp_new_floats(out * in, "a linear's weights", err);
        int r = w ? qp_block_weight(block, (enum qp_linear)i, true, w, err) : QP_ERR_ROOM;
        if (r == 0)
            block->kernels->column_stats(out, in, w, columns, NULL, NULL, NULL);
        free(w);
        if (r < 0)
            return r;
    }
    return 0;
}

static int smooth_site(const struct state *s, struct qp_block *block, enum qp_site site, struct qp_error *err)
{
    int64_t in = qp_arch_dim(block->arch, block->arch->family->sites[site].dim);
    float *scale = qp_new_floats(2 * in, "smoothing scales", err);
    if (!scale)
        return QP_ERR_ROOM;
    float *columns = scale + in;
    int r = qp_block_stat(block, site, "absmax", scale, err);
    if (r == 0)
        r = weight_maxima(block, site, in, columns, err);
    for (int64_t j = 0; r == 0 && j < in; j++) {
        float w = fmaxf(columns[j], SMALLEST_SCALE);
        scale[j] = fmaxf(powf(scale[j], (float)s->alpha) / powf(w, 1.0f - (float)s->alpha), SMALLEST_SCALE);
    }
    if (r == 0)
        r = qp_block_fold(block, site, scale, err);
    free(scale);
    return r;
}

static int smooth(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    (void)stage;
    const struct state *s = state;
    int r = 0;
    for (int site = 0; site < QP_SITES && r == 0 && qp_block_is_layer(block); site++)
        if (s->model.arch.family->sites[site].fold == QP_FOLD_NORM &&
            qp_model_quantizes_site(&s->model, block->layer, (enum qp_site)site))
            r = smooth_site(s, block, (enum qp_site)site, err);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (strcmp(s->method, "none") == 0)
        return qp_stage_emit(stage, NULL, unit, err);
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, smooth, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    qp_model_close(&((struct state *)state)->model);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "smooth",
    .summary = "balances activations against weights (SmoothQuant)",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .needs = stage_needs,
    .process = process,
    .close = close_,
};
