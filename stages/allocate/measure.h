/* Measuring a layer: what each candidate loses at each site, and what that does to the network.
 *
 * Losses of different sites do not compare. What makes them comparable is what the network does with them: for each
 * group a stream of hidden states goes along in which that group alone is rounded to nearest by the probe, the
 * candidate of fewest bytes (what finer ones do to a short text is done to few of its tokens, and changes manyfold from
 * draw to draw); the divergence of its final distribution from the clean stream's, divided by the loss that caused it,
 * is what a unit of loss is worth there. All streams move through a block together while it is at hand, so one pass
 * over the blocks measures everything. The damage of a choice is then the sum of loss times worth (second order: the KL
 * divergence is quadratic in small changes, and errors of different groups are taken as independent). */
#ifndef QUANTPIPE_STAGES_ALLOCATE_MEASURE_H
#define QUANTPIPE_STAGES_ALLOCATE_MEASURE_H

#include "libstage/network/evaluate.h"
#include "stages/allocate/table.h"

/* The clean stream and those of the groups so far, one after the other in memory. */
struct qp_probes {
    struct qp_windows windows; /* of one stream */
    struct qp_windows all;     /* of all of them: count alone differs, no ids */
    struct qp_text text;
    struct qp_hidden_states states; /* [1 + groups, windows.count * windows.length, hidden] */
    size_t used;                    /* streams, the clean one included */
    bool perturbed;                 /* groups get streams of their own */
    struct qp_group **owners;       /* of streams 1 to used - 1 */
};

struct qp_probes_options {
    const json_t *spec; /* a data entry */
    int64_t tokens;     /* of it that are used at most, in windows of at most 256 */
    bool perturbed;     /* false: there is the clean stream alone */
    size_t groups;
    const char *scratch; /* a folder */
};

int qp_probes_open(const struct qp_model *model, const struct qp_probes_options *options, struct qp_probes *out,
                   struct qp_error *err);
void qp_probes_close(struct qp_probes *probes); /* a zeroed one is accepted */

/* Starts the streams. */
int qp_probes_embed(struct qp_probes *probes, const struct qp_block *block, struct qp_error *err);

/* Fills the losses and energies of a decoder layer's groups; the block carries hessian at their sites and says
 * over how many `tokens`. Losses are those of rounding to nearest, or with `gptq` of GPTQ (order by activation). With
 * `probes` (may be NULL) all streams move on through the layer, and new ones start. */
int qp_measure_layer(struct qp_table *table, const struct qp_block *block, bool gptq, struct qp_probes *probes,
                     struct qp_error *err);

/* Fills the divergences from the head's logits of all streams. */
int qp_probes_score(struct qp_probes *probes, const struct qp_block *block, struct qp_error *err);

#endif
