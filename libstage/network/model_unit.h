/* The model unit as stages read it: architecture and scheme. */
#ifndef QUANTPIPE_NETWORK_MODEL_UNIT_H
#define QUANTPIPE_NETWORK_MODEL_UNIT_H

#include "libstage/network/arch.h"
#include "libstage/calibration/data.h"
#include "libstage/tensor/scheme/scheme.h"
#include "libstage/tensor/unit.h"

struct qp_model {
    json_t *attrs; /* the unit's attributes: path, config, tokenizer, scheme, blocks */
    struct qp_arch arch;
    struct qp_scheme *scheme; /* bound to arch.dtype */
    bool sequential;          /* layers come in steps (libstage/network/sequential.h) */
};

/* Reads a model unit (kept by the caller). QP_ERR_INPUT when an attribute is missing or wrong, when the scheme is a
 * budget, or when layers come in steps. */
int qp_model_open(const struct qp_unit *unit, struct qp_model *out, struct qp_error *err);

/* The same, and both are accepted: a budget, whose formats stage allocate has yet to choose, quantizes nothing. */
int qp_model_open_any(const struct qp_unit *unit, struct qp_model *out, struct qp_error *err);

/* What the first refuses of what the second accepts. */
int qp_model_expect_formats(const struct qp_model *model, struct qp_error *err);
int qp_model_expect_whole(const struct qp_model *model, struct qp_error *err);

void qp_model_close(struct qp_model *model); /* a zeroed one is accepted */

/* A string attribute (borrowed), or NULL when it is absent or null. */
const char *qp_model_string(const struct qp_model *model, const char *key);

/* What applies to a decoder layer's linear, NULL when it stays as it is. Borrowed. */
const struct qp_linear_scheme *qp_model_scheme(const struct qp_model *model, int64_t layer, int linear);

/* Whether a linear of decoder layer `layer` that reads `site` is to be quantized. */
bool qp_model_quantizes_site(const struct qp_model *model, int64_t layer, int site);

/* The sites of decoder layer `layer` that are to be quantized and whose channels a fold can scale; returns how many.
 * Those that fold into rows of weights come first, so that these are scaled when their own site is looked at. sites: as
 * long as the layer's list of them. */
int qp_model_fold_sites(const struct qp_model *model, int64_t layer, int *sites);

/* Windows of a `data` entry (calibration/data.h), with the model's own tokenizer and vocabulary. */
int qp_model_windows(const struct qp_model *model, const json_t *spec, struct qp_windows *out, struct qp_error *err);

#endif
