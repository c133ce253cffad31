#include "runner/pipeline/schemas.h"

#include <stdio.h>

#include "libstage/base/schema.h"

int qp_control_body_check(const char *kind, const json_t *body, struct qp_error *err)
{
    static json_t *schema; /* read once, and there as long as the process */
    char definition[48];
    if (!schema && !(schema = json_loads(qp_control_schema, 0, NULL)))
        return qp_fail_memory(err, 0, "the schema of messages");
    snprintf(definition, sizeof definition, "stage-%.30s", kind);
    return qp_schema_check(schema, definition, body, kind, err);
}
