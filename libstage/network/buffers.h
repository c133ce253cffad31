/* Where the buffers of a layer's graph lie in a workspace: those that are never needed at the same time share memory.
 */
#ifndef QUANTPIPE_NETWORK_BUFFERS_H
#define QUANTPIPE_NETWORK_BUFFERS_H

#include "libstage/network/block.h"

struct qp_buffer {
    int64_t at; /* in floats a token */
    bool half;  /* holds BF16: the input of a product of BF16 */
};

/* In floats a token of the workspace. */
struct qp_buffer_plan {
    int64_t floats; /* all of it */
    int64_t wide;   /* where the input of a site is in float32 while the site looks at it, of a layer in BF16 */
    int64_t codes;  /* where codes of a site's input lie, a scale and a zero point before them; -1: nowhere */
    struct qp_buffer buffers[]; /* [buffer_count]; [0], the residual stream, is the caller's */
};

/* The plan of a loaded layer's type, compute and codes, in new memory at layer->plan, freed with the layer. */
int qp_layer_plan(struct qp_layer *layer, struct qp_error *err);

#endif
