/* outliers: warns about linears whose largest weight stands far above the rest, which few bits represent badly.
 *
 * In: blocks with weights; out: the same, untouched. A warning for each linear with max |w| above `limit` times its
 * root mean square. Memory: one linear's weights. */
#include <math.h>
#include <stdlib.h>

#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"

struct state {
    double limit;
    struct qp_model model;
};

static const struct qp_param params[] = {{.name = "limit",
                                          .type = QP_PARAM_FLOAT,
                                          .fallback = "20",
                                          .min = 1.0,
                                          .max = 1e6,
                                          .help = "warn about a linear whose max |w| is above so many times its rms",
                                          .offset = offsetof(struct state, limit)},
                                         {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks with weights"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same blocks"}, {0}};

static double peak_over_rms(const float *w, int64_t count)
{
    double peak = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; i++) {
        peak = fmax(peak, fabs(w[i]));
        squares += (double)w[i] * w[i];
    }
    return squares > 0.0 ? peak / sqrt(squares / (double)count) : 0.0;
}

static int measure(struct qp_stage *stage, const struct state *s, const struct qp_block *block, int linear,
                   struct qp_error *err)
{
    const struct qp_linear *desc = &block->type->linears[linear];
    int64_t count = desc->out * desc->in;
    float *w = qp_new_floats(count, "a linear's weights", err);
    int r = w ? qp_block_weight(block, linear, true, w, err) : QP_ERR_SPACE;
    double ratio = r == 0 ? peak_over_rms(w, count) : 0.0;
    if (ratio > s->limit) {
        char name[128];
        qp_module_name(block->arch, block->layer, linear, name, sizeof name);
        qp_stage_warn(stage, "outliers", name, "the largest weight is %.1f times the rms", ratio);
    }
    free(w);
    return r;
}

static int measure_block(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    for (int i = 0; r == 0 && qp_block_is_layer(block) && i < block->type->linear_count; i++)
        r = measure(stage, state, block, i, err);
    return r;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, measure_block, err);
}

/* Looks at each weight once, of one linear at a time. */
static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    (void)state;
    (void)err;
    out->work_known = out->memory_known = true;
    for (int64_t layer = 0; layer < task->arch->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(task->arch, layer);
        for (int i = 0; i < type->linear_count; i++) {
            double weights = (double)type->linears[i].out * (double)type->linears[i].in;
            out->work.bytes_read += qp_task_stored(task, weights);
            out->block_bytes = fmax(out->block_bytes, weights * sizeof(float));
        }
    }
    return 0;
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "outliers",
    .summary = "warns about linears with weights far above the rest",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .estimate = estimate,
    .process = process,
};
