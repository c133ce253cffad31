/* quantize: turns each linear that the scheme names into codes, scales and zero points.
 *
 * rtn: round to nearest on the grid of each group's range.
 * gptq (Frantar et al. 2023, algorithm 1): with H the site's second moment, damped on the diagonal by `damping` times
 * its mean, and U the upper Cholesky factor of H^-1, columns are rounded in order and each one's error is spread over
 * the later ones: inside blocks of `block` columns at once, over the rest by one product a block. Scales are those of
 * the original groups. order: activation takes columns by falling diag(H); the checkpoint stays in natural order. In:
 * blocks (gptq: with second_moment); out: the same with codes. Memory: one site's moment and one linear. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "stages/quantize/gptq.h"

struct state {
    const char *method, *order;
    double damping;
    int64_t block;
    struct qp_model model;
};

static const char *const methods[] = {"rtn", "gptq", NULL};
static const char *const orders[] = {"natural", "activation", NULL};
static const struct qp_param params[] = {
    {.name = "method",
     .type = QP_PARAM_STRING,
     .fallback = "rtn",
     .choices = methods,
     .help = "rtn rounds to nearest; gptq spreads each rounding error over the columns that follow",
     .offset = offsetof(struct state, method)},
    {.name = "damping",
     .type = QP_PARAM_FLOAT,
     .fallback = "0.01",
     .min = 1e-6,
     .max = 1.0,
     .help = "gptq: share of the mean diagonal added to the diagonal of H",
     .offset = offsetof(struct state, damping)},
    {.name = "block",
     .type = QP_PARAM_INT,
     .fallback = "128",
     .min = 1,
     .max = 4096,
     .help = "gptq: columns between two updates of the rest",
     .offset = offsetof(struct state, block)},
    {.name = "order",
     .type = QP_PARAM_STRING,
     .fallback = "activation",
     .choices = orders,
     .help = "gptq: order in which columns are rounded",
     .offset = offsetof(struct state, order)},
    {0}};
static const struct qp_need stage_needs[] = {{"second_moment", "method", "gptq"}, {0}};
static const char *const needs[] = {"weights", NULL};
static const char *const provides[] = {"quantized", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .provides = provides, .help = "the same with codes"}, {0}};

/* Quantizes w[rows, in] (overwritten by gptq) with the site's solver, or by rounding when it is NULL. */
static int quantize_matrix(const struct qp_block *block, const struct qp_gptq *solver, int64_t rows, int64_t in,
                           const struct qp_quant_spec *spec, float *w, struct qp_quantized *q, float *scale,
                           int8_t *zero, uint8_t *codes, struct qp_error *err)
{
    int64_t group = qp_spec_group(spec, in);
    *q = (struct qp_quantized){.grid = spec->grid,
                               .rows = rows,
                               .cols = in,
                               .group = group,
                               .codes = codes,
                               .scale = scale,
                               .zero = spec->grid.symmetric ? NULL : zero};
    block->kernels->qparams(&spec->grid, rows, in, group, w, scale, zero);
    if (solver)
        return qp_gptq_solve(solver, q, w, codes, err);
    block->kernels->quantize(&spec->grid, rows, in, group, w, scale, q->zero, codes);
    return 0;
}

static int quantize_linear(struct qp_stage *stage, struct qp_block *block, enum qp_linear linear,
                           const struct qp_linear_scheme *scheme, const struct qp_gptq *solver, struct qp_error *err)
{
    const struct qp_linear_desc *desc = &block->arch->family->linears[linear];
    int64_t rows = qp_arch_dim(block->arch, desc->out), in = qp_arch_dim(block->arch, desc->in);
    int64_t count = qp_scale_count(rows, in, qp_spec_group(&scheme->weights, in));
    float *w = qp_new_floats(rows * in, "a linear's weights", err);
    float *scale = qp_new_floats(count, "scales", err);
    int8_t *zero = qp_new_array(count, 1, "zero points", err);
    uint8_t *codes = qp_new_array(rows * in, 1, "codes", err);
    struct qp_quantized q;
    int r = w && scale && zero && codes ? qp_block_weight(block, linear, true, w, err) : QP_ERR_ROOM;
    if (r == 0)
        r = quantize_matrix(block, solver, rows, in, &scheme->weights, w, &q, scale, zero, codes, err);
    if (r == 0)
        r = qp_block_set_quantized(block, linear, &q, qp_stage_allocator(stage), err);
    free(w);
    free(scale);
    free(zero);
    free(codes);
    return r;
}

/* Factors the site's H; tells when more damping than asked for was needed. */
static int open_solver(struct qp_stage *stage, const struct state *s, const struct qp_block *block, enum qp_site site,
                       struct qp_gptq **solver, struct qp_error *err)
{
    const struct qp_site_desc *desc = &block->arch->family->sites[site];
    int64_t in = qp_arch_dim(block->arch, desc->dim);
    float *h = qp_new_floats(in * in, "a second moment", err);
    int r = h ? qp_block_second_moment(block, site, h, err) : QP_ERR_ROOM;
    if (r < 0) {
        free(h);
        return r;
    }
    double used = s->damping;
    bool by_activation = strcmp(s->order, "activation") == 0;
    char name[128], where[192];
    snprintf(name, sizeof name, block->arch->family->block, (int)block->layer);
    snprintf(where, sizeof where, "%s.%s", name, desc->name);
    r = qp_gptq_open(block->kernels, in, h, s->block, by_activation, &used, solver, err); /* takes h */
    if (r < 0)
        return qp_wrap(err, "%s", where);
    if (used > s->damping)
        qp_stage_warn(stage, "damping-raised", where, "H is close to singular: damping %g was needed, not %g", used,
                      s->damping);
    return 0;
}

static int quantize_site(struct qp_stage *stage, const struct state *s, struct qp_block *block, enum qp_site site,
                         struct qp_error *err)
{
    struct qp_gptq *solver = NULL;
    int r = 0;
    for (int i = 0; i < QP_LINEARS && r == 0; i++) {
        const struct qp_linear_scheme *scheme = qp_model_scheme(&s->model, block->layer, (enum qp_linear)i);
        if (block->arch->family->linears[i].site != site || !scheme || !scheme->weights.enabled)
            continue;
        if (strcmp(s->method, "gptq") == 0 && !solver)
            r = open_solver(stage, s, block, site, &solver, err);
        if (r == 0)
            r = quantize_linear(stage, block, (enum qp_linear)i, scheme, solver, err);
    }
    qp_gptq_close(solver);
    return r;
}

static int quantize(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    for (int site = 0; site < QP_SITES && r == 0 && qp_block_is_layer(block); site++)
        r = quantize_site(stage, state, block, (enum qp_site)site, err);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, quantize, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    qp_model_close(&((struct state *)state)->model);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "quantize",
    .summary = "rounds weights to the scheme's grid (RTN, GPTQ)",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .needs = stage_needs,
    .process = process,
    .close = close_,
};
