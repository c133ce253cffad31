#include <stdlib.h>

#include "libstage/base/memory.h"
#include "libstage/network/evaluate.h"
#include "libstage/tensor/operations.h"

int qp_text_open(const struct qp_arch *arch, const struct qp_windows *windows, struct qp_text *out,
                 struct qp_error *err)
{
    struct qp_text text = {.windows = windows};
    int r = qp_rotations_open(arch, windows->length, &text.rotations, err);
    if (r == 0)
        r = qp_workspace_new(&text.workspace, err);
    if (r < 0) {
        qp_text_close(&text);
        return r;
    }
    *out = text;
    return 0;
}

void qp_text_close(struct qp_text *text)
{
    qp_workspace_free(text->workspace);
    qp_rotations_close(&text->rotations);
    *text = (struct qp_text){0};
}

/* Of hidden states that are not float32, about so many tokens are at a time. */
#define PART_TOKENS 2048

typedef int part_fn(const struct qp_text *text, const void *context, int64_t first, int64_t windows, float *x,
                    struct qp_error *err);

/* What `work` makes of the stream's windows, in parts; `reads`: it looks at what they were. */
static int in_parts(const struct qp_text *text, const struct qp_kernels *kernels, struct qp_hidden_states *states,
                    bool reads, part_fn *work, const void *context, struct qp_error *err)
{
    int64_t length = text->windows->length, step = length < PART_TOKENS ? PART_TOKENS / length : 1;
    float *x = qp_new_floats(step * length * states->hidden, "hidden states", err);
    int r = x ? 0 : QP_ERR_SPACE;
    for (int64_t w = 0; r == 0 && w < text->windows->count; w += step) {
        int64_t windows = text->windows->count - w < step ? text->windows->count - w : step;
        if (reads)
            qp_hidden_read(states, kernels, w * length, windows * length, x);
        r = qp_operations_go_on(err);
        if (r == 0)
            r = work(text, context, w, windows, x, err);
        if (r == 0)
            qp_hidden_write(states, kernels, w * length, windows * length, x);
    }
    free(x);
    return r;
}

struct embedding {
    const struct qp_block *block;
    enum qp_version version;
};

static int embed_part(const struct qp_text *text, const void *context, int64_t first, int64_t windows, float *x,
                      struct qp_error *err)
{
    const struct embedding *e = context;
    int64_t length = text->windows->length;
    return qp_embed(e->block, e->version, windows * length, length, text->windows->ids + first * length, x, err);
}

int qp_text_embed(const struct qp_text *text, const struct qp_block *embedding, enum qp_version version,
                  struct qp_hidden_states *states, struct qp_error *err)
{
    const struct embedding e = {embedding, version};
    return states->x ? embed_part(text, &e, 0, text->windows->count, states->x, err)
                     : in_parts(text, embedding->kernels, states, false, embed_part, &e, err);
}

struct forward_pass {
    const struct qp_layer *layer;
    const struct qp_taps *taps;
};

static int forward_part(const struct qp_text *text, const void *context, int64_t first, int64_t windows, float *x,
                        struct qp_error *err)
{
    (void)first;
    const struct forward_pass *p = context;
    return qp_layer_forward(p->layer, &(struct qp_sequences){windows, text->windows->length, x}, &text->rotations,
                            text->workspace, p->taps, err);
}

int qp_text_forward(const struct qp_text *text, const struct qp_layer *layer, struct qp_hidden_states *states,
                    const struct qp_taps *taps, struct qp_error *err)
{
    const struct forward_pass p = {layer, taps};
    return states->x ? forward_part(text, &p, 0, text->windows->count, states->x, err)
                     : in_parts(text, layer->kernels, states, true, forward_part, &p, err);
}
