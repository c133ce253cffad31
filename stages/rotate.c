/* rotate: turns the network's hidden spaces by orthogonal matrices, which spreads outliers over all channels and leaves
 * what the network computes as it is (QuaRot, Ashkboos et al. 2024, section 3; SpinQuant, Liu et al. 2024,
 * section 3.1).
 *
 * r1 turns the residual stream by R: norm gains g are first moved into the linears after them (and become ones), then
 *   embedding E R;  q, k, v, gate, up: W diag(g) R;  o, down: Rᵀ W, bias b R;  head W diag(g) R, a matrix of its own.
 * r2 turns each value head by a matrix S of its layer: v: Sᵀ W_h, bias b_h S;  o: W_h S, for the columns of each head.
 * Both are randomized Hadamard matrices, diag(signs) H / sqrt(n). Computed in float64, kept in float32: rounding to the
 * model's dtype is left to the end of the pipeline. In: blocks as loaded, before any statistic was collected; out: the
 * same, rotated. Memory: a block in float32 and its largest linear in float64. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/memory.h"
#include "libstage/include/block_stage.h"
#include "libstage/tensor/operations.h"
#include "stages/rotate/rotation.h"

struct state {
    bool r1, r2;
    int64_t seed;
    struct qp_model model; /* as it came in; what is passed on may say `untied` */
    struct rotation residual;
};

static const struct qp_param params[] = {
    QP_FLAG("r1", struct state, r1, "true", "rotate the residual stream; the head becomes a matrix of its own"),
    QP_FLAG("r2", struct state, r2, "true", "rotate each value head"),
    QP_INT("seed", struct state, seed, "1", 0, 1e15, "of the signs; other signs are another rotation"),
    {0}};
static const char *const needs[] = {"weights", NULL};
static const struct qp_port inputs[] = {{.name = "in", .needs = needs, .help = "blocks as loaded"}, {0}};
static const struct qp_port outputs[] = {{.name = "out", .help = "the same, rotated"}, {0}};

/* ---- tensors in float64 and back ---- */

/* w[elements] = a tensor of the unit, in float64; scratch of the same count. */
static int read_tensor(const struct qp_block *block, const char *name, int64_t elements, float *scratch, double *w,
                       struct qp_error *err)
{
    const struct qp_tensor *t = qp_unit_find(block->unit, name);
    if (!t || t->elements != elements || !qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld: %s is missing, or not of the model's size and kind",
                       (long long)block->unit->seq, name);
    block->kernels->to_f32(t->dtype, elements, t->data, scratch);
    for (int64_t i = 0; i < elements; i++)
        w[i] = scratch[i];
    return 0;
}

/* Puts w into the unit as float32. */
static int put_tensor(struct qp_stage *stage, struct qp_block *block, const char *name, int rank, const int64_t *shape,
                      const double *w, struct qp_error *err)
{
    struct qp_tensor *t;
    int r = qp_allocate(qp_stage_allocator(stage), name, QP_F32, rank, shape, &t, err);
    if (r < 0)
        return r;
    for (int64_t i = 0; i < t->elements; i++)
        ((float *)t->data)[i] = (float)w[i];
    return qp_unit_put(block->unit, t, err);
}

/* ---- a decoder layer ---- */

/* What turns a linear: what its inputs were multiplied with (a norm's gain) and turned by, and its outputs. */
struct step {
    const double *gain;
    const struct rotation *in, *out;
};

static int rotate_weight(struct qp_stage *stage, struct qp_block *block, const char *module, const int64_t shape[2],
                         const struct step *step, struct qp_error *err)
{
    char name[300];
    int64_t rows = shape[0], cols = shape[1];
    qp_auto_free double *w = qp_new_array(rows * cols, sizeof *w, "a linear in float64", err);
    qp_auto_free float *scratch = qp_new_floats(rows * cols, "a linear", err);
    snprintf(name, sizeof name, "%s.weight", module);
    int r = w && scratch ? read_tensor(block, name, rows * cols, scratch, w, err) : QP_ERR_SPACE;
    for (int64_t i = 0; r == 0 && step->gain && i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            w[i * cols + j] *= step->gain[j];
    if (r == 0 && step->in)
        r = rotate_rows(step->in, rows, cols, w, err);
    if (r == 0 && step->out)
        r = rotate_columns(step->out, rows, cols, w, err);
    return r < 0 ? r : put_tensor(stage, block, name, 2, shape, w, err);
}

static int rotate_bias(struct qp_stage *stage, struct qp_block *block, const char *module, int64_t rows,
                       const struct rotation *out, struct qp_error *err)
{
    char name[300];
    qp_auto_free double *b = qp_new_array(rows, sizeof *b, "a bias in float64", err);
    qp_auto_free float *scratch = qp_new_floats(rows, "a bias", err);
    snprintf(name, sizeof name, "%s.bias", module);
    int r = b && scratch ? read_tensor(block, name, rows, scratch, b, err) : QP_ERR_SPACE;
    if (r == 0)
        r = rotate_rows(out, 1, rows, b, err);
    return r < 0 ? r : put_tensor(stage, block, name, 1, &rows, b, err);
}

static int rotate_linear(struct qp_stage *stage, struct qp_block *block, int linear, const struct step *step,
                         struct qp_error *err)
{
    char module[256];
    const struct qp_linear *d = &block->type->linears[linear];
    const int64_t shape[2] = {d->out, d->in};
    if (!step->in && !step->out && !step->gain)
        return 0;
    qp_module_name(block->arch, block->layer, linear, module, sizeof module);
    int r = qp_operations_go_on(err);
    if (r == 0)
        r = rotate_weight(stage, block, module, shape, step, err);
    if (r == 0 && step->out && d->bias)
        r = rotate_bias(stage, block, module, shape[0], step->out, err);
    return r;
}

/* The residual stream can be rotated where it is read through RMS norms alone and linears alone add to it. */
static int check_rotatable(const struct qp_arch *arch, int64_t layer, struct qp_error *err)
{
    const struct qp_layer_type *type = qp_layer_type(arch, layer);
    if (arch->wrapper)
        return qp_fail(
            err, QP_ERR_INPUT,
            "the residual stream of %s cannot be rotated, for other parts than embeddings write to it; set r1 "
            "to false",
            arch->class_name);
    for (int i = 0; i < type->op_count; i++) {
        const struct qp_op *op = &type->ops[i];
        bool reads = op->in[0].width > 0 && op->in[0].buffer == 0, writes = op->out.width > 0 && op->out.buffer == 0;
        bool norm = op->kind == QP_OP_NORM && type->norms[op->index].kind == QP_NORM_RMS && !writes;
        if ((reads && !norm) || (writes && op->kind != QP_OP_LINEAR))
            return qp_fail(err, QP_ERR_INPUT,
                           "layer %lld: the residual stream of %s cannot be rotated, for it is not read and written "
                           "through RMS norms and linears alone; set r1 to false",
                           (long long)layer, arch->class_name);
    }
    return 0;
}

static bool writes_residual(const struct qp_layer_type *type, int linear)
{
    for (int i = 0; i < type->op_count; i++)
        if (type->ops[i].kind == QP_OP_LINEAR && type->ops[i].index == linear)
            return type->ops[i].out.buffer == 0;
    return false;
}

/* What r1 and r2 do to a linear. gains: [norms, hidden]. */
static struct step step_of(const struct state *s, const struct qp_layer_type *type, const struct rotation *head,
                           const double *gains, int linear)
{
    const struct qp_linear *d = &type->linears[linear];
    const struct qp_site *site = &type->sites[d->site];
    bool of_values = site->fold == QP_FOLD_ROWS && site->fold_target == type->value_linear;
    struct step step = {0};
    if (s->r1 && site->fold == QP_FOLD_NORM) {
        step.gain = gains + site->fold_target * s->model.arch.hidden;
        step.in = &s->residual;
    } else if (s->r2 && of_values) {
        step.in = head;
    }
    if (s->r1 && writes_residual(type, linear))
        step.out = &s->residual;
    else if (s->r2 && linear == type->value_linear)
        step.out = head;
    return step;
}

static bool is_before_linears(const struct qp_layer_type *type, int norm)
{
    for (int s = 0; s < type->site_count; s++)
        if (type->sites[s].fold == QP_FOLD_NORM && type->sites[s].fold_target == norm)
            return true;
    return false;
}

/* Takes the gains of the norms before the layer's linears out: gains[norms, hidden]; ones remain. */
static int take_gains(struct qp_stage *stage, struct qp_block *block, double *gains, struct qp_error *err)
{
    int64_t hidden = block->arch->hidden;
    qp_auto_free float *gain = qp_new_floats(hidden, "a norm's gain", err);
    qp_auto_free double *ones = qp_new_array(hidden, sizeof *ones, "a norm's gain", err);
    int r = gain && ones ? 0 : QP_ERR_SPACE;
    for (int n = 0; n < block->type->norm_count && r == 0; n++) {
        char name[256];
        if (!is_before_linears(block->type, n))
            continue;
        r = qp_block_norm(block, n, false, gain, err);
        for (int64_t i = 0; r == 0 && i < hidden; i++) {
            gains[n * hidden + i] = gain[i];
            ones[i] = 1.0 - (double)block->type->norms[n].offset;
        }
        qp_block_name(block, block->type->norms[n].module, "weight", name, sizeof name);
        if (r == 0)
            r = put_tensor(stage, block, name, 1, &hidden, ones, err);
    }
    return r;
}

/* Statistics and folds belong to the channels as they were. */
static int check_untouched(const struct qp_block *block, struct qp_error *err)
{
    static const char *const words[] = {"hessian",   "absmax",  "absmean",   "min",  "max",
                                        "asymmetry", "samples", "histogram", "fold", NULL};
    for (int site = 0; site < block->type->site_count; site++)
        for (int i = 0; words[i]; i++)
            if (qp_block_has_stat(block, site, words[i]))
                return qp_fail(err, QP_ERR_INPUT,
                               "layer %lld has a %s of %s already, which a rotation would make wrong; put rotate "
                               "between load and calibrate",
                               (long long)block->layer, words[i], block->type->sites[site].name);
    return 0;
}

static int rotate_layer(struct qp_stage *stage, const struct state *s, struct qp_block *block, struct qp_error *err)
{
    const struct qp_arch *arch = block->arch;
    struct rotation head = {0};
    qp_auto_free double *gains =
        qp_new_array(block->type->norm_count * arch->hidden, sizeof *gains, "the gains of norms", err);
    int r = gains ? check_untouched(block, err) : QP_ERR_SPACE;
    if (r == 0 && s->r1)
        r = take_gains(stage, block, gains, err);
    if (r == 0 && s->r2)
        r = rotation_new(block->type->attention.head_dim, "the size of a head", (uint64_t)s->seed,
                         (uint64_t)block->layer + 1, &head, err);
    for (int i = 0; i < block->type->linear_count && r == 0; i++) {
        struct step step = step_of(s, block->type, &head, gains, i);
        r = rotate_linear(stage, block, i, &step, err);
    }
    rotation_free(&head);
    return r;
}

/* ---- embedding and head ---- */

/* Of rows out[rows, hidden] of a matrix that is too large to be held in float64; w[rows, hidden] is scratch. */
static int rotate_chunk(const struct state *s, int64_t rows, const double *gain, double *w, float *out,
                        struct qp_error *err)
{
    int64_t hidden = s->model.arch.hidden;
    for (int64_t i = 0; i < rows * hidden; i++)
        w[i] = gain ? out[i] * gain[i % hidden] : out[i];
    int r = rotate_rows(&s->residual, rows, hidden, w, err);
    for (int64_t i = 0; r == 0 && i < rows * hidden; i++)
        out[i] = (float)w[i];
    return r;
}

/* Puts `to` = `from` diag(gain) R into the unit, in place of `from`. */
static int rotate_end(struct qp_stage *stage, const struct state *s, struct qp_block *block, const char *from,
                      const char *to, const double *gain, struct qp_error *err)
{
    enum { CHUNK = 1024 };
    const struct qp_arch *arch = block->arch;
    const int64_t shape[2] = {arch->vocab, arch->hidden};
    const struct qp_tensor *t = qp_unit_find(block->unit, from);
    if (!t || t->rank != 2 || t->shape[0] != shape[0] || t->shape[1] != shape[1] || !qp_dtype_is_plain_float(t->dtype))
        return qp_fail(err, QP_ERR_INPUT, "block unit %lld: %s is missing, or not of the model's size and kind",
                       (long long)block->unit->seq, from);
    struct qp_tensor *out;
    size_t row_bytes = t->bytes / (size_t)arch->vocab;
    qp_auto_free double *w = qp_new_array(CHUNK * arch->hidden, sizeof *w, "rows in float64", err);
    int r = w ? qp_allocate(qp_stage_allocator(stage), to, QP_F32, 2, shape, &out, err) : QP_ERR_SPACE;
    if (r < 0)
        return r;
    for (int64_t first = 0; first < arch->vocab && r == 0; first += CHUNK) {
        int64_t rows = arch->vocab - first < CHUNK ? arch->vocab - first : CHUNK;
        float *chunk = (float *)out->data + first * arch->hidden;
        block->kernels->to_f32(t->dtype, rows * arch->hidden, (const char *)t->data + (size_t)first * row_bytes, chunk);
        r = qp_operations_go_on(err);
        if (r == 0)
            r = rotate_chunk(s, rows, gain, w, chunk, err);
    }
    if (r < 0) {
        qp_tensor_unref(out);
        return r;
    }
    qp_unit_remove(block->unit, from);
    return qp_unit_put(block->unit, out, err);
}

static int rotate_head(struct qp_stage *stage, const struct state *s, struct qp_block *block, struct qp_error *err)
{
    const struct qp_arch *f = block->arch;
    char norm[256], from[256], to[256];
    int64_t hidden = block->arch->hidden;
    snprintf(norm, sizeof norm, "%s.weight", f->final_norm);
    snprintf(from, sizeof from, "%s.weight", block->arch->tied ? f->embedding : f->head);
    snprintf(to, sizeof to, "%s.weight", f->head);
    qp_auto_free double *gain = qp_new_array(hidden, sizeof *gain, "a norm's gain", err);
    qp_auto_free float *scratch = qp_new_floats(hidden, "a norm's gain", err);
    int r = gain && scratch ? read_tensor(block, norm, hidden, scratch, gain, err) : QP_ERR_SPACE;
    if (r == 0)
        r = rotate_end(stage, s, block, from, to, gain, err);
    for (int64_t i = 0; r == 0 && i < hidden; i++)
        gain[i] = 1.0;
    return r < 0 ? r : put_tensor(stage, block, norm, 1, &hidden, gain, err);
}

static int rotate(struct qp_stage *stage, void *state, struct qp_block *block, struct qp_error *err)
{
    const struct state *s = state;
    char name[256];
    if (qp_block_is_layer(block))
        return rotate_layer(stage, s, block, err);
    if (!s->r1)
        return 0;
    if (block->layer >= 0)
        return rotate_head(stage, s, block, err);
    snprintf(name, sizeof name, "%s.weight", block->arch->embedding);
    return rotate_end(stage, s, block, name, name, NULL, err);
}

/* Reads the model unit and makes it say that the head has a matrix of its own. */
static int start(struct state *s, struct qp_unit *unit, struct qp_error *err)
{
    int r = qp_model_open_any(unit, &s->model, err);
    for (int64_t i = 0; r == 0 && s->r1 && i < s->model.arch.layers; i++)
        r = check_rotatable(&s->model.arch, i, err);
    if (r < 0 || !s->r1)
        return r;
    json_t *attrs = json_deep_copy(unit->attrs);
    if (!attrs || json_object_set_new(json_object_get(attrs, "config"), "tie_word_embeddings", json_false()) < 0) {
        json_decref(attrs);
        return qp_fail_memory(err, 0, "the model's attributes");
    }
    json_decref(unit->attrs);
    unit->attrs = attrs;
    return rotation_new(s->model.arch.hidden, "hidden_size", (uint64_t)s->seed, 0, &s->residual, err);
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    struct state *s = state;
    if (unit->kind == QP_UNIT_MODEL)
        return qp_stage_pass(stage, unit, start(s, unit, err), err);
    return qp_stage_blocks(stage, s, unit, &s->model, NULL, rotate, err);
}

static void close_(struct qp_stage *stage, void *state)
{
    (void)stage;
    struct state *s = state;
    rotation_free(&s->residual);
    qp_model_close(&s->model);
}

/* Tensors in float32 of every block, and one linear in float64. How much arithmetic that is is not counted. */
static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    const struct qp_arch *a = task->arch;
    const struct state *s = state;
    (void)err;
    out->memory_known = true;
    out->provides[0] = "rotation";
    out->emitted_bytes = s->r1 ? 4 * (double)a->vocab * (double)a->hidden : 0;
    for (int64_t layer = 0; layer < a->layers; layer++) {
        const struct qp_layer_type *type = qp_layer_type(a, layer);
        out->emitted_bytes = fmax(out->emitted_bytes, 4 * (double)qp_layer_parameters(type));
        for (int l = 0; l < type->linear_count; l++)
            out->block_bytes = fmax(out->block_bytes, 12 * (double)type->linears[l].out * (double)type->linears[l].in);
    }
    return 0;
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "rotate",
    .summary = "rotates hidden spaces so that outliers spread (QuaRot's R1 and SpinQuant's R2)",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .inputs = inputs,
    .outputs = outputs,
    .any_scheme = true,
    .sequential = true,
    .estimate = estimate,
    .process = process,
    .close = close_,
};
