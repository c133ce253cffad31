/* A budget among the schemes: who chooses the formats. */
#include <string.h>

#include "runner/prepare.h"

static bool chooses(const struct qp_instance *in, int branch)
{
    const char *name = json_string_value(json_object_get(in->descriptor, "name"));
    return name && strcmp(name, "allocate") == 0 && (in->branch == branch || in->branch == QP_SHARED);
}

int qp_budget_check(const struct qp_pipeline *p, size_t branch, struct qp_error *err)
{
    const struct qp_branch *b = &p->branches[branch];
    if (!b->scheme->budget)
        return 0;
    for (size_t i = 0; i < p->count; i++)
        if (chooses(&p->instances[i], (int)branch))
            return 0;
    return qp_document_fail(p->document, b->path, err,
                            "a scheme with a budget needs stage `allocate`, which chooses the formats, and this "
                            "pipeline has none; add it under `stages:` behind calibrate, as `allocate: {from: "
                            "calibrate}`, and let what reads `from: calibrate` read `from: allocate`");
}
