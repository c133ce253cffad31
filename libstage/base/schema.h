/* Values held to a JSON Schema (draft 2020-12): the keywords that schemas/ uses, and no others. */
#ifndef QUANTPIPE_BASE_SCHEMA_H
#define QUANTPIPE_BASE_SCHEMA_H

#include "libstage/base/json.h"

/* Checks `value` against `definition` in the $defs of a schema (NULL: the schema itself). QP_ERR_INPUT says what the
 * first difference is: "WHAT.inputs[0].name: ...". A keyword that is not known here is QP_ERR_STAGE, so that no schema
 * asks for something that nobody checks. */
int qp_schema_check(const json_t *schema, const char *definition, const json_t *value, const char *what,
                    struct qp_error *err);

#endif
