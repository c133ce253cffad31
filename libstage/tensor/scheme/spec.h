/* One side of a scheme - weights, activations, the KV cache - from its mapping. Keys and what they mean: scheme.h. */
#ifndef QUANTPIPE_TENSOR_SCHEME_SPEC_H
#define QUANTPIPE_TENSOR_SCHEME_SPEC_H

#include "libstage/base/json.h"

#include "libstage/tensor/scheme/scheme.h"

/* *spec is set whole. QP_ERR_INPUT with a path that starts with `path`. */
int qp_scheme_parse_weights(const json_t *value, const char *path, enum qp_exact exact, struct qp_quant_spec *spec,
                            struct qp_error *err);
int qp_scheme_parse_activations(const json_t *value, const char *path, enum qp_exact exact, struct qp_quant_spec *spec,
                                struct qp_error *err);
int qp_scheme_parse_kv_cache(const json_t *value, const char *path, enum qp_exact exact, struct qp_quant_spec *spec,
                             struct qp_error *err);

/* Refuses pairs that no engine multiplies. */
int qp_scheme_check_pair(const struct qp_linear_scheme *linear, const char *path, struct qp_error *err);

#endif
