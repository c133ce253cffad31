#include "tests/support/network.h"

#include <stdlib.h>

#include "libstage/base/cleanup.h"

struct network {
    struct qp_checkpoint *checkpoint;
    const struct qp_kernels *kernels;
    const struct qp_windows *windows;
    struct qp_workspace *workspace;
    struct qp_rotations rotations;
    float *x, *logits;
};

static int run_layer(const struct network *n, const struct qp_block *block, struct qp_error *err)
{
    struct qp_layer layer;
    int r = qp_layer_load(block, QP_ORIGINAL, NULL, &layer, err);
    if (r < 0)
        return r;
    r = qp_layer_forward(&layer, &(struct qp_sequences){n->windows->count, n->windows->length, n->x}, &n->rotations,
                         n->workspace, NULL, err);
    qp_layer_free(&layer);
    return r;
}

static int run_head(const struct network *n, const struct qp_block *block, struct qp_error *err)
{
    struct qp_head head;
    int64_t rows = n->windows->count * n->windows->length, width = qp_head_scratch(block->arch);
    qp_auto_free float *scratch = malloc((size_t)(rows * width) * sizeof *scratch);
    if (!scratch)
        return qp_fail_memory(err, (size_t)(rows * width) * sizeof *scratch, "the head's input");
    int r = qp_head_load(block, &head, err);
    if (r < 0)
        return r;
    qp_head_logits(&head, QP_ORIGINAL, rows, n->x, scratch, n->logits);
    qp_head_free(&head);
    return 0;
}

static int run_block(const struct network *n, int64_t index, struct qp_error *err)
{
    qp_auto_unit struct qp_unit *unit = NULL;
    struct qp_block block;
    int r = qp_checkpoint_block(n->checkpoint, index, NULL, &unit, err);
    if (r == 0)
        r = qp_block_of(&n->checkpoint->arch, n->kernels, unit, &block, err);
    if (r < 0)
        return r;
    if (qp_block_is_layer(&block))
        return run_layer(n, &block, err);
    return index == 0 ? qp_embed(&block, QP_ORIGINAL, n->windows->count * n->windows->length, n->windows->length,
                                 n->windows->ids, n->x, err)
                      : run_head(n, &block, err);
}

int network_logits(struct qp_checkpoint *checkpoint, const struct qp_windows *windows, const struct qp_kernels *kernels,
                   float *logits, struct qp_error *err)
{
    struct network n = {.checkpoint = checkpoint, .kernels = kernels, .windows = windows, .logits = logits};
    size_t bytes = (size_t)(windows->count * windows->length * checkpoint->arch.hidden) * sizeof(float);
    int r = qp_rotations_open(&checkpoint->arch, windows->length, &n.rotations, err);
    if (r == 0)
        r = qp_workspace_new(&n.workspace, err);
    if (r == 0 && !(n.x = malloc(bytes)))
        r = qp_fail_memory(err, bytes, "hidden states");
    for (int64_t b = 0; r == 0 && b < qp_arch_blocks(&checkpoint->arch); b++)
        r = run_block(&n, b, err);
    qp_workspace_free(n.workspace);
    qp_rotations_close(&n.rotations);
    free(n.x);
    return r;
}
