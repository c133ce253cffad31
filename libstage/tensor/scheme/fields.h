/* The keys of a scheme's mappings, read with their types checked. Paths ("scheme.weights") are for messages. Each
 * function returns 0 or QP_ERR_INPUT; *out keeps its value when the key is absent. */
#ifndef QUANTPIPE_TENSOR_SCHEME_FIELDS_H
#define QUANTPIPE_TENSOR_SCHEME_FIELDS_H

#include <stdbool.h>
#include <stdint.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"

#define QP_SCHEME_PATH 160

/* "PATH.KEY: found a string, expected EXPECTED"; an empty key is the path itself. */
int qp_scheme_wrong_type(const json_t *value, const char *path, const char *key, const char *expected,
                         struct qp_error *err);

/* That `value` is a mapping of `known` keys. */
int qp_scheme_check_keys(const json_t *value, const char *path, const char *const *known, struct qp_error *err);

int qp_scheme_string(const json_t *object, const char *path, const char *key, const char **out, struct qp_error *err);
int qp_scheme_bool(const json_t *object, const char *path, const char *key, bool *out, struct qp_error *err);

/* A string that is one of `known` (ends with NULL). */
int qp_scheme_word(const json_t *object, const char *path, const char *key, const char *const *known, const char **out,
                   struct qp_error *err);

/* Rows or columns that share a scale: 1 to 2^20. qp_scheme_size reads `key` of a mapping. */
int qp_scheme_check_size(const json_t *value, const char *path, const char *key, int64_t *out, struct qp_error *err);
int qp_scheme_size(const json_t *object, const char *path, const char *key, int64_t *out, struct qp_error *err);

#endif
