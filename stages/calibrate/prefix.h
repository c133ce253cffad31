/* Calibration after the quantized blocks: a layer's statistics are those of the hidden states that the layers before
 * it put out once they are quantized, as they come back from downstream. So each layer is quantized for what it will
 * really see (Frantar et al. 2023, section 4: "quantize block by block, on the inputs of the already quantized ones").
 *
 * A layer that comes in steps (libstage/network/sequential.h) is also calibrated after its own quantized linears, with
 * what is known of their activations simulated; the unit gets all that its former steps came to (GPTQ's
 * `true_sequential`: github.com/IST-DASLab/gptq, llama.py).
 *
 * Two sets of hidden states: x after quantized layers, and, when `asymmetry` is wanted, x_original after original
 * ones. Asymmetry of a site = sum over the tokens of (x_original - x)ᵀ x of the site's inputs, both after the layer's
 * own original weights (in steps: x after what is quantized by then). Memory: both are mapped files; the inputs of
 * all sites of about 2048 tokens are held, and of a layer in true-sequential steps statistics and codes. */
#ifndef QUANTPIPE_CALIBRATE_PREFIX_H
#define QUANTPIPE_CALIBRATE_PREFIX_H

#include "libstage/include/stage.h"
#include "libstage/network/evaluate.h"
#include "libstage/network/model_unit.h"
#include "stages/calibrate/statistics.h"

struct qp_prefix;

/* `model` and `text` are borrowed. QP_ERR_INPUT when the model's formats are not chosen yet. */
int qp_prefix_open(struct qp_stage *stage, const struct qp_model *model, const struct qp_text *text,
                   struct qp_prefix **out, struct qp_error *err);
void qp_prefix_free(struct qp_prefix *prefix); /* NULL is accepted */

/* A block on its way downstream: a layer's statistics are collected and, if wanted, its asymmetry is put into the unit.
 */
int qp_prefix_collect(struct qp_prefix *prefix, struct qp_stage *stage, struct qp_block *block,
                      struct qp_statistics *statistics, struct qp_error *err);

/* The embedding on its way downstream: where the original stream begins. */
int qp_prefix_embed(struct qp_prefix *prefix, const struct qp_block *embedding, struct qp_error *err);

/* A block that has come back: x moves on through it, once it is whole. */
int qp_prefix_advance(struct qp_prefix *prefix, const struct qp_block *block, struct qp_error *err);

#endif
