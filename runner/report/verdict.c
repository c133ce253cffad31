/* The verdict on a branch whose stages are over: its gate, and, for a strict run, warnings. */
#include <stdio.h>
#include <string.h>

#include "runner/report/record.h"

/* Whether a warning is about this branch: of one of its stages, of a stage that all share, or of its scheme. */
static bool is_about(const struct qp_pipeline *p, int branch, const json_t *warning)
{
    const char *stage = json_string_value(json_object_get(warning, "stage"));
    const char *scheme = json_string_value(json_object_get(warning, "scheme"));
    const struct qp_instance *in = stage ? qp_pipeline_find(p, stage) : NULL;
    if (in)
        return in->branch == QP_SHARED || in->branch == branch;
    return !scheme || strcmp(scheme, p->branches[branch].name) == 0;
}

size_t qp_branch_warnings(const struct qp_record *record, int branch, const json_t **first)
{
    size_t i, count = 0;
    json_t *warning;
    json_array_foreach(record->warnings, i, warning) {
        if (!is_about(record->plan->pipeline, branch, warning))
            continue;
        if (count++ == 0 && first)
            *first = warning;
    }
    return count;
}

bool qp_branch_refused(const struct qp_record *record, int branch, char *why, size_t size)
{
    const struct qp_error *cause = &record->failures[branch];
    const json_t *first = NULL;
    size_t warnings = record->plan->pipeline->strict ? qp_branch_warnings(record, branch, &first) : 0;
    if (cause->code)
        snprintf(why, size, "%s", cause->message);
    else if (warnings > 0)
        snprintf(why, size, "%zu warning%s in a strict run; the first is %s: %s: %s", warnings, warnings > 1 ? "s" : "",
                 json_string_value(json_object_get(first, "code")), json_string_value(json_object_get(first, "where")),
                 json_string_value(json_object_get(first, "message")));
    return cause->code || warnings > 0;
}

/* A digest that stage `index` has reported; NULL when it has none or works for another branch. */
static const char *digest_of(const struct qp_record *record, int branch, size_t index, const char *key)
{
    int of = record->plan->pipeline->instances[index].branch;
    if (of != branch && of != QP_SHARED)
        return NULL;
    return json_string_value(json_object_get(record->stages[index].report, key));
}

bool qp_branch_differs(const struct qp_record *record, int branch, char *why, size_t size)
{
    const struct qp_pipeline *p = record->plan->pipeline;
    const char *measured = NULL, *measurer = "";
    for (size_t o = 0; o < p->count; o++) {
        const char *digest = digest_of(record, branch, p->order[o], "measured_digest");
        measurer = digest ? p->instances[p->order[o]].name : measurer;
        measured = digest ? digest : measured;
    }
    for (size_t o = 0; measured && o < p->count; o++) {
        const char *written = digest_of(record, branch, p->order[o], "received_digest");
        if (!written || strcmp(written, measured) == 0)
            continue;
        snprintf(why, size,
                 "what stage `%s` has written is not what stage `%s` has measured (digests %s and %s): a stage between "
                 "them changes blocks; let it come before `%s`",
                 p->instances[p->order[o]].name, measurer, written, measured, measurer);
        return true;
    }
    return false;
}
