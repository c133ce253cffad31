#include <stdlib.h>

#include "libstage/model/evaluate.h"

int qp_text_open(const struct qp_arch *arch, const struct qp_windows *windows, struct qp_text *out,
                 struct qp_error *err)
{
    struct qp_text text = {.windows = windows};
    int r = qp_rope_tables(arch, windows->length, &text.cos, &text.sin, err);
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
    free(text->cos);
    free(text->sin);
    *text = (struct qp_text){0};
}

int qp_text_embed(const struct qp_text *text, const struct qp_block *embedding, enum qp_version version,
                  struct qp_stream *stream, struct qp_error *err)
{
    return qp_embed(embedding, version, text->windows->count * text->windows->length, text->windows->ids, stream->x,
                    err);
}

int qp_text_forward(const struct qp_text *text, const struct qp_layer *layer, struct qp_stream *stream,
                    const struct qp_taps *taps, struct qp_error *err)
{
    return qp_layer_forward(layer, text->windows->count, text->windows->length, text->cos, text->sin, stream->x,
                            text->workspace, taps, err);
}
