/* Perplexity and the divergence of two networks, streamed block by block. */
#ifndef QUANTPIPE_NETWORK_EVALUATE_H
#define QUANTPIPE_NETWORK_EVALUATE_H

#include "libstage/network/block.h"
#include "libstage/network/checkpoint.h"
#include "libstage/calibration/data.h"

struct qp_metrics {
    int64_t tokens;                                             /* scored predictions: length - 1 a window */
    double perplexity;                                          /* exp of the mean negative log likelihood */
    double reference_perplexity, kl_divergence, top1_agreement; /* against the reference; NAN without one */
};

/* Hidden states of all windows of one network; memory is a mapped, unlinked file in `scratch` (NULL: anonymous). A
 * layer moves them on in float32 whatever they are kept in. */
struct qp_hidden_states {
    const struct qp_windows *windows;
    int64_t hidden;
    float *x;            /* [count * length, hidden] of QP_F32, else NULL */
    enum qp_dtype dtype; /* QP_F32 or QP_BF16 */
    void *data;
    size_t bytes;
};
int qp_hidden_open(const struct qp_windows *windows, int64_t hidden, const char *scratch, struct qp_hidden_states *out,
                   struct qp_error *err);
int qp_hidden_open_as(const struct qp_windows *windows, int64_t hidden, enum qp_dtype dtype, const char *scratch,
                      struct qp_hidden_states *out, struct qp_error *err);
void qp_hidden_close(struct qp_hidden_states *states);

/* Tokens first to first + count of all windows: x[count, hidden]. */
void qp_hidden_read(const struct qp_hidden_states *states, const struct qp_kernels *kernels, int64_t first,
                    int64_t count, float *x);
void qp_hidden_write(struct qp_hidden_states *states, const struct qp_kernels *kernels, int64_t first, int64_t count,
                     const float *x);

/* All that a forward over windows needs besides weights and hidden states. */
struct qp_text {
    const struct qp_windows *windows; /* borrowed */
    struct qp_rotations rotations;    /* of a window's length */
    struct qp_workspace *workspace;
};
int qp_text_open(const struct qp_arch *arch, const struct qp_windows *windows, struct qp_text *out,
                 struct qp_error *err);
void qp_text_close(struct qp_text *text); /* a zeroed one is accepted */

/* Hidden states of the stream = embeddings of the text; then, layer by layer, what the layer makes of them. `taps` as
 * in qp_layer_forward, may be NULL. */
int qp_text_embed(const struct qp_text *text, const struct qp_block *embedding, enum qp_version version,
                  struct qp_hidden_states *states, struct qp_error *err);
int qp_text_forward(const struct qp_text *text, const struct qp_layer *layer, struct qp_hidden_states *states,
                    const struct qp_taps *taps, struct qp_error *err);

/* Scores a head's logits of the stream's final hidden states. With a `reference` the stream is the quantized network's,
 * read by the head as it will be exported, and compared with the reference's; without, all is as in the checkpoint. */
int qp_hidden_score(const struct qp_head *head, const struct qp_hidden_states *states,
                    const struct qp_hidden_states *reference, struct qp_metrics *out, struct qp_error *err);

/* Tokens whose logits that looks at at a time, of so many in all. */
int64_t qp_score_rows(const struct qp_arch *arch, int64_t tokens);

/* Perplexity of a checkpoint as it is on disk; quantized activations simulated. progress may be NULL. */
int qp_evaluate(struct qp_checkpoint *checkpoint, const struct qp_windows *windows, const struct qp_kernels *kernels,
                void (*progress)(void *context, int64_t done, int64_t total), void *context, struct qp_metrics *out,
                struct qp_error *err);

#endif
