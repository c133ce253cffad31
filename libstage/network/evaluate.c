#include "libstage/network/evaluate.h"

#include <stdlib.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/network/block_internal.h"
#include "libstage/tensor/operations.h"

/* What stays the same from block to block. */
struct evaluation {
    struct qp_checkpoint *checkpoint;
    const struct qp_kernels *kernels;
    struct qp_hidden_states states;
    struct qp_text text;
    struct qp_metrics *metrics;
};

/* Hidden states can be larger than memory; /var/tmp is on a disk even where /tmp is not. */
static const char *scratch_folder(void)
{
    const char *folder = getenv("TMPDIR");
    if (folder && qp_is_folder(folder))
        return folder;
    return qp_is_folder("/var/tmp") ? "/var/tmp" : NULL;
}

/* quantized[linear_count]: what the checkpoint holds quantized. */
static void find_quantized(const struct qp_checkpoint *c, const struct qp_block *block, bool *quantized)
{
    char module[256];
    for (int l = 0; l < block->type->linear_count; l++)
        quantized[l] = c->scheme && qp_scheme_for(c->scheme, qp_module_name(&c->arch, block->layer, l, module,
                                                                            sizeof module)) != NULL;
}

static int run_layer(struct evaluation *e, struct qp_block *block, struct qp_error *err)
{
    struct qp_layer layer;
    qp_auto_free bool *quantized = calloc((size_t)block->type->linear_count, sizeof *quantized);
    if (!quantized)
        return qp_fail_memory(err, (size_t)block->type->linear_count, "a decoder layer");
    find_quantized(e->checkpoint, block, quantized);
    int r = qp_layer_load(block, QP_ORIGINAL, NULL, &layer, err);
    if (r < 0)
        return r;
    if (e->checkpoint->scheme)
        r = qp_checkpoint_ranges(e->checkpoint, block, err);
    if (r == 0 && e->checkpoint->scheme)
        r = qp_layer_activations(block, e->checkpoint->scheme, quantized, &layer, err);
    if (r == 0)
        r = qp_checkpoint_low_rank(e->checkpoint, block, err);
    if (r == 0)
        r = qp_layer_load_low_rank(block, &layer, err);
    if (r == 0)
        r = qp_text_forward(&e->text, &layer, &e->states, NULL, err);
    qp_layer_free(&layer);
    return r;
}

static int run_head(struct evaluation *e, const struct qp_block *block, struct qp_error *err)
{
    struct qp_head head;
    int r = qp_head_load(block, &head, err);
    if (r < 0)
        return r;
    r = qp_hidden_score(&head, &e->states, NULL, e->metrics, err);
    qp_head_free(&head);
    return r;
}

static int run_block(struct evaluation *e, int64_t index, struct qp_error *err)
{
    qp_auto_unit struct qp_unit *unit = NULL;
    struct qp_block block;
    int r = qp_checkpoint_block(e->checkpoint, index, NULL, &unit, err);
    if (r == 0)
        r = qp_block_of(&e->checkpoint->arch, e->kernels, unit, &block, err);
    if (r < 0)
        return r;
    if (qp_block_is_layer(&block))
        return run_layer(e, &block, err);
    return block.layer < 0 ? qp_text_embed(&e->text, &block, QP_ORIGINAL, &e->states, err) : run_head(e, &block, err);
}

int qp_evaluate(struct qp_checkpoint *checkpoint, const struct qp_windows *windows, const struct qp_kernels *kernels,
                void (*progress)(void *context, int64_t done, int64_t total), void *context, struct qp_metrics *out,
                struct qp_error *err)
{
    struct evaluation e = {.checkpoint = checkpoint, .kernels = kernels, .metrics = out};
    int64_t blocks = qp_arch_blocks(&checkpoint->arch);
    int r = qp_text_open(&checkpoint->arch, windows, &e.text, err);
    if (r == 0)
        r = qp_hidden_open(windows, checkpoint->arch.hidden, scratch_folder(), &e.states, err);
    for (int64_t b = 0; r == 0 && b < blocks; b++) {
        r = run_block(&e, b, err);
        if (r == 0 && progress)
            progress(context, b + 1, blocks);
    }
    qp_hidden_close(&e.states);
    qp_text_close(&e.text);
    return qp_operations_check(r, err);
}
