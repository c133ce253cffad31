/* The verdict on a run whose stages are over: gates of branches, and, for a strict run, warnings. */
#include <stdio.h>
#include <string.h>

#include "runner/supervise.h"

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

size_t qp_branch_warnings(const struct qp_supervisor *s, int branch, const json_t **first)
{
    size_t i, count = 0;
    json_t *warning;
    json_array_foreach(s->warnings, i, warning) {
        if (!is_about(s->run->plan->pipeline, branch, warning))
            continue;
        if (count++ == 0 && first)
            *first = warning;
    }
    return count;
}

bool qp_branch_refused(const struct qp_supervisor *s, int branch, char *why, size_t size)
{
    const struct qp_error *cause = &s->ends[branch].cause;
    const json_t *first = NULL;
    size_t warnings = s->run->plan->pipeline->strict ? qp_branch_warnings(s, branch, &first) : 0;
    if (cause->code)
        snprintf(why, size, "%s", cause->message);
    else if (warnings > 0)
        snprintf(why, size, "%zu warning%s in a strict run; the first is %s: %s: %s", warnings, warnings > 1 ? "s" : "",
                 json_string_value(json_object_get(first, "code")), json_string_value(json_object_get(first, "where")),
                 json_string_value(json_object_get(first, "message")));
    return cause->code || warnings > 0;
}

int qp_verdict(const struct qp_supervisor *s, struct qp_error *err)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    char text[2 * QP_ERROR_SIZE] = "", why[QP_ERROR_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->branch_count; i++) {
        size_t used = strlen(text);
        if (!qp_branch_refused(s, (int)i, why, sizeof why))
            r = qp_output_publish(s->run, i, err);
        else if (qp_has_branches(p))
            snprintf(text + used, sizeof text - used, "%sscheme `%s`: %s", used ? "\n" : "", p->branches[i].name, why);
        else
            snprintf(text, sizeof text, "%s", why);
    }
    return r < 0 || !text[0] ? r : qp_fail(err, QP_ERR_GATE, "%s", text);
}
