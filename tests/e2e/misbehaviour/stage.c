/* misuse: a stage whose messages are right and whose blocks are not. It stands after quantize, or in its place. */
#include <string.h>

#include "libstage/include/block_stage.h"

struct state {
    const char *does;
    struct qp_model model;
};

static const struct qp_param params[] = {QP_TEXT("does", struct state, does, "nothing", "what it does to the blocks"),
                                         {0}};
static const char *const provides[] = {"quantized", NULL};
static const struct qp_port inputs[] = {{.name = "in", .help = "any units"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .provides = provides, .help = "the same units"}, {0}};

static bool does(const struct state *s, const char *what)
{
    return strcmp(s->does, what) == 0;
}

/* Puts a copy of the codes of a linear back that has another one in it: 100, -9, or one that INT4 has. */
static int spoil_codes(const struct state *s, const struct qp_block *block, const char *name, struct qp_error *err)
{
    const struct qp_tensor *old = qp_unit_find(block->unit, name);
    struct qp_tensor *copy;
    if (!old)
        return qp_fail(err, QP_ERR_INPUT, "%s: is not there", name);
    int r = qp_tensor_new(name, old->dtype, old->rank, old->shape, &copy, err);
    if (r < 0)
        return r;
    memcpy(copy->data, old->data, old->bytes);
    int8_t *code = (int8_t *)copy->data + 7;
    *code = does(s, "code 100") ? 100 : does(s, "code -9") ? -9 : (int8_t)(-1 - *code);
    return qp_unit_put(block->unit, copy, err);
}

static void drop_codes(const struct qp_block *block, bool all)
{
    char name[256];
    static const char *const what[] = {"weight_codes", "weight_packed", "weight_scale", "weight_zero_point"};
    for (int linear = 0; linear < block->type->linear_count; linear++)
        for (size_t i = 0; i < sizeof what / sizeof *what && (all || linear == 1); i++)
            qp_unit_remove(block->unit,
                           qp_block_name(block, block->type->linears[linear].module, what[i], name, sizeof name));
}

/* Rounds a linear's weights as they are in the checkpoint, whatever folds there are. */
static int round_plain(struct qp_stage *stage, struct qp_block *block, int linear,
                       const struct qp_linear_scheme *scheme, struct qp_error *err)
{
    const struct qp_linear *d = &block->type->linears[linear];
    struct qp_tensor *w;
    int r = qp_tensor_new("w", QP_F32, 2, (const int64_t[2]){d->out, d->in}, &w, err);
    if (r < 0)
        return r;
    struct qp_rtn job = {.format = &scheme->weights.format,
                         .dtype = QP_F32,
                         .rows = d->out,
                         .cols = d->in,
                         .group = qp_spec_group(&scheme->weights, d->in),
                         .w = w->data};
    r = qp_block_weight(block, linear, false, w->data, err);
    if (r == 0)
        r = qp_block_new_quantized(block, linear, qp_stage_allocator(stage), &job, err);
    if (r == 0)
        qp_stage_kernels(stage)->rtn(&job);
    qp_tensor_unref(w);
    return r;
}

static int round_all(struct qp_stage *stage, const struct state *s, struct qp_block *block, struct qp_error *err)
{
    int r = 0;
    for (int linear = 0; r == 0 && linear < block->type->linear_count; linear++) {
        const struct qp_linear_scheme *scheme = qp_model_scheme(&s->model, block->layer, linear);
        r = scheme ? round_plain(stage, block, linear, scheme, err) : 0;
    }
    return r;
}

static int work(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    const struct state *s = state;
    char name[256];
    if (!qp_block_is_layer(block))
        return 0;
    qp_block_name(block, block->type->linears[2].module, "weight_codes", name, sizeof name);
    if (does(s, "ignore folds"))
        return round_all(stage, s, block, err);
    if (block->layer != 1)
        return 0;
    if (does(s, "code 100") || does(s, "code -9") || does(s, "another code"))
        return spoil_codes(s, block, name, err);
    if (does(s, "no codes") || does(s, "no codes of one"))
        drop_codes(block, does(s, "no codes"));
    return 0;
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, work, err);
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "misuse",
    .summary = "spoils blocks",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .process = process,
};
