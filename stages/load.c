/* load: opens the model, checks it whole, and sends it on block by block.
 *
 * Out: the model unit, then the embedding, each decoder layer and the head, each with its tensors as they are in the
 * checkpoint: references into the mapped files for safetensors, dequantized tensors for GGUF. Memory: what consumers
 * have not acknowledged of dequantized blocks. With true_sequential each layer goes in steps
 * (libstage/network/sequential.h), which share the tensors. */
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "libstage/include/stage.h"
#include "libstage/network/checkpoint.h"
#include "libstage/network/estimate.h"
#include "libstage/network/parts.h"
#include "libstage/network/sequential.h"

struct state {
    bool true_sequential;
};

static const struct qp_param params[] = {
    QP_FLAG("true_sequential", struct state, true_sequential, "false",
            "send each layer in steps, so that also within it each input is calibrated after the quantized linears "
            "before it: q, k, v, then o, then gate, up, then down; needs calibrate's feedback from quantize.steps"),
    {0}};

static const char *const provides[] = {"weights", NULL};
static const struct qp_port outputs[] = {{.name = "out", .provides = provides, .help = "the model, block by block"},
                                         {0}};

/* A unit as it is, or all its steps; takes it over. */
static int emit(struct qp_stage *stage, const struct state *s, const struct qp_arch *arch, struct qp_unit *unit,
                struct qp_error *err)
{
    qp_auto_unit struct qp_unit *owned = unit;
    (void)owned; /* clang counts no clean-up as a use */
    int steps = s->true_sequential && unit->kind == QP_UNIT_BLOCK ? qp_sequential_steps(arch, unit->seq - 1) : 1;
    int r = 0;
    for (int step = 1; r == 0 && step <= steps; step++) {
        struct qp_unit *copy;
        r = qp_unit_copy(unit, &copy, err);
        if (r == 0)
            r = qp_stage_pass(stage, copy, s->true_sequential ? qp_sequential_label(arch, step, copy, err) : 0, err);
    }
    return r;
}

static int emit_end(struct qp_stage *stage, const struct state *s, const struct qp_arch *arch, struct qp_error *err)
{
    struct qp_unit *end;
    int r = qp_unit_new(QP_UNIT_END, qp_arch_blocks(arch) + 1, &end, err);
    if (r < 0)
        return r;
    json_object_set_new(end->attrs, "blocks", json_integer((json_int_t)qp_arch_blocks(arch)));
    return emit(stage, s, arch, end, err);
}

static int emit_all(struct qp_stage *stage, const struct state *s, struct qp_checkpoint *checkpoint,
                    const struct qp_scheme *scheme, struct qp_error *err)
{
    struct qp_unit *unit;
    int r = qp_checkpoint_model(checkpoint, scheme, &unit, err);
    if (r < 0)
        return r;
    r = qp_stage_pass(stage, unit, s->true_sequential ? qp_sequential_announce(&checkpoint->arch, unit, err) : 0, err);
    int64_t blocks = qp_arch_blocks(&checkpoint->arch);
    for (int64_t b = 0; r == 0 && b < blocks; b++) {
        r = qp_checkpoint_block(checkpoint, b, qp_stage_allocator(stage), &unit, err);
        if (r == 0)
            r = emit(stage, s, &checkpoint->arch, unit, err);
        qp_stage_progress(stage, b + 1, blocks);
    }
    return r < 0 ? r : emit_end(stage, s, &checkpoint->arch, err);
}

static void report_model(struct qp_stage *stage, const struct qp_checkpoint *checkpoint)
{
    qp_stage_report(stage, "model",
                    json_pack("{s:s, s:s, s:I}", "path", checkpoint->path, "architecture", checkpoint->arch.class_name,
                              "parameters", (json_int_t)qp_arch_parameters(&checkpoint->arch)));
}

/* What can be refused before the first block is sent is refused here. */
static int check(const struct qp_checkpoint *checkpoint, struct qp_scheme *scheme, struct qp_error *err)
{
    if (checkpoint->scheme)
        return qp_fail(err, QP_ERR_INPUT, "%s: is quantized already (%s); start from the original checkpoint",
                       checkpoint->path, checkpoint->scheme->name);
    qp_scheme_bind(scheme, checkpoint->arch.dtype);
    return qp_scheme_check_model(scheme, &checkpoint->arch, err);
}

static int process(struct qp_stage *stage, void *state, struct qp_unit *unit, struct qp_error *err)
{
    (void)unit;
    const json_t *context = qp_stage_context(stage);
    struct qp_checkpoint *checkpoint = NULL;
    struct qp_scheme *scheme = NULL;
    int r = qp_checkpoint_open(json_string_value(json_object_get(context, "model")), &checkpoint, err);
    if (r == 0)
        r = qp_scheme_parse(json_object_get(context, "scheme"), &scheme, err);
    if (r == 0)
        r = check(checkpoint, scheme, err);
    if (r == 0) {
        report_model(stage, checkpoint);
        r = emit_all(stage, state, checkpoint, scheme, err);
    }
    qp_scheme_free(scheme);
    qp_checkpoint_close(checkpoint);
    return r;
}

static bool is_gguf(const char *path)
{
    size_t length = path ? strlen(path) : 0;
    return length > 5 && strcmp(path + length - 5, ".gguf") == 0;
}

/* A block's tensors in shared memory. */
static double sent_bytes(const struct qp_task *task, int64_t block)
{
    struct qp_part part;
    double bytes = 0;
    QP_EACH_PART(part, task->arch, block)
    {
        int64_t shape[2];
        int rank = qp_part_shape(task->arch, &part, shape);
        bytes += qp_sent_bytes(qp_task_stored(task, (double)shape[0] * (rank == 2 ? (double)shape[1] : 1)));
    }
    return bytes;
}

/* Maps files; who needs the weights reads them. Tensors of GGUF are dequantized: of layers as many as are on their way,
 * and the embedding or the head, which may be larger. */
static int estimate(const struct qp_task *task, const void *state, struct qp_estimate *out, struct qp_error *err)
{
    const struct state *s = state;
    int64_t last = qp_arch_blocks(task->arch) - 1;
    (void)err;
    out->work_known = true;
    out->provides[0] = s->true_sequential ? "steps" : NULL;
    out->memory_known = true;
    if (!is_gguf(task->path))
        return 0;
    for (int64_t block = 1; block < last; block++)
        out->emitted_bytes = fmax(out->emitted_bytes, sent_bytes(task, block));
    out->block_bytes = fmax(0, fmax(sent_bytes(task, 0), sent_bytes(task, last)) - out->emitted_bytes);
    return 0;
}

const struct qp_stage_desc qp_stage_desc = {
    .name = "load",
    .summary = "reads a checkpoint and sends it block by block",
    .version = 1,
    .state_size = sizeof(struct state),
    .params = params,
    .outputs = outputs,
    .estimate = estimate,
    .process = process,
};
