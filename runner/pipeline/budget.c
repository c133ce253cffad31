/* A budget among the schemes: who chooses the formats, and whether it can. */
#include <string.h>

#include "runner/pipeline/graph.h"
#include "runner/pipeline/prepare.h"

/* Whether a stage of the branch chooses formats: what an output provides says it. */
static bool chooses(const struct qp_instance *in, int branch)
{
    size_t i, j;
    json_t *port, *feature;
    bool found = false;
    json_array_foreach(qp_ports_of(in, "outputs"), i, port)
        json_array_foreach(json_object_get(port, "provides"), j, feature)
            found |= strcmp(json_string_value(feature), "formats") == 0;
    return found && (in->branch == branch || in->branch == QP_SHARED);
}

static bool leads_to(const struct qp_pipeline *p, size_t from, size_t to)
{
    bool reached[QP_MAX_INSTANCES] = {false};
    reached[from] = true;
    for (size_t o = 0; o < p->count; o++) /* producers come first */
        for (size_t e = 0; reached[p->order[o]] && e < p->edge_count; e++)
            if (p->edges[e].from == p->order[o] && !p->edges[e].delay)
                reached[p->edges[e].to] = true;
    return reached[to];
}

/* A choice that waits for the last block cannot stand in a cycle in which the next block waits for what comes of it.
 */
static int check_cycle(const struct qp_pipeline *p, size_t index, struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    if (!json_is_string(json_object_get(in->descriptor, "holds")) || !qp_needs_any(p, index))
        return 0; /* it decides without having seen the blocks */
    for (size_t i = 0; i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        if (e->delay && leads_to(p, e->to, index) && leads_to(p, index, e->from))
            return qp_document_fail(p->document, e->path, err,
                                    "stage `%s` waits for the last block, and `%s` waits for what comes back from it; "
                                    "put a second calibrate after `%s` and let the feedback go there, or give `%s` the "
                                    "`losses` of a former run",
                                    in->name, p->instances[e->to].name, in->name, in->name);
    }
    return 0;
}

int qp_budget_check(const struct qp_pipeline *p, size_t branch, struct qp_error *err)
{
    const struct qp_branch *b = &p->branches[branch];
    if (!b->scheme->budget)
        return 0;
    for (size_t i = 0; i < p->count; i++)
        if (chooses(&p->instances[i], (int)branch))
            return check_cycle(p, i, err);
    return qp_document_fail(p->document, b->path, err,
                            "a scheme with a budget needs stage `allocate`, which chooses the formats, and this "
                            "pipeline has none; add it under `stages:` after calibrate, as `allocate: {from: "
                            "calibrate}`, and let what reads `from: calibrate` read `from: allocate`");
}
