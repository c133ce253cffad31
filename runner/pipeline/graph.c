/* The graph of stages: edges, order, and what has to hold before anything is started. Sets of features are objects
 * whose keys are the features. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "runner/pipeline/graph.h"
#include "runner/pipeline/renamed.h"

const json_t *qp_ports_of(const struct qp_instance *in, const char *side)
{
    return json_object_get(in->descriptor, side);
}

const char *qp_text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

const json_t *qp_named(const json_t *list, const char *key, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item) {
        const char *text = qp_text_of(item, key);
        if (text && strcmp(text, name) == 0)
            return item;
    }
    return NULL;
}

static void port_names(const json_t *ports, char *text, size_t size)
{
    size_t i;
    json_t *port;
    text[0] = '\0';
    json_array_foreach(ports, i, port)
        snprintf(text + strlen(text), size - strlen(text), "%s%s", i ? ", " : "", qp_text_of(port, "name"));
}

/* ---- edges ---- */

/* The only port, or the only one that something has to go through; NULL when there are several, or none. */
static const json_t *only_port(const json_t *ports)
{
    const json_t *found = NULL;
    size_t i, count = 0;
    json_t *port;
    if (json_array_size(ports) == 1)
        return json_array_get(ports, 0);
    json_array_foreach(ports, i, port)
        if (!json_is_true(json_object_get(port, "optional")) && !json_is_true(json_object_get(port, "feedback"))) {
            found = port;
            count++;
        }
    return count == 1 ? found : NULL;
}

/* The port that `name` means: the only one when it is NULL. `side`: "inputs" or "outputs". */
static int pick_port(const struct qp_pipeline *p, const struct qp_instance *in, const char *side, const char *name,
                     const char *path, const char **out, struct qp_error *err)
{
    const json_t *ports = qp_ports_of(in, side);
    const json_t *port = name ? qp_named(ports, "name", name) : only_port(ports);
    const json_t *renamed = name && !port ? qp_named(ports, "was", name) : NULL;
    char list[256];
    port_names(ports, list, sizeof list);
    port = port ? port : renamed;
    if (!port && json_array_size(ports) == 0)
        return qp_document_fail(p->document, path, err, "stage `%s` has no %.*s", in->name, (int)strlen(side) - 1,
                                side);
    if (!port && !name)
        return qp_document_fail(p->document, path, err, "stage `%s` has several %s: name one of %s", in->name, side,
                                list);
    if (!port)
        return qp_document_fail(p->document, path, err, "stage `%s` has no %.*s `%s`; it has: %s", in->name,
                                (int)strlen(side) - 1, side, name, list);
    *out = qp_text_of(port, "name");
    return renamed ? qp_warn_renamed(p, path, name, *out, err) : 0;
}

static int unknown_source(const struct qp_pipeline *p, const struct qp_source *source, struct qp_error *err)
{
    const char *names[QP_MAX_INSTANCES];
    for (size_t i = 0; i < p->count; i++)
        names[i] = p->instances[i].name;
    const char *near = qp_nearest(source->instance, names, p->count);
    return qp_document_fail(p->document, source->path, err, "there is no stage `%s` in this pipeline%s%s%s",
                            source->instance, near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
}

static int add_edge(struct qp_pipeline *p, struct qp_instance *to, const struct qp_source *source, struct qp_error *err)
{
    struct qp_instance *from = qp_pipeline_find(p, source->instance);
    if (!from)
        return unknown_source(p, source, err);
    struct qp_edge edge = {.from = (size_t)(from - p->instances), .to = (size_t)(to - p->instances)};
    edge.path = source->path;
    edge.delay = source->delay;
    int r = pick_port(p, from, "outputs", source->output, source->path, &edge.output, err);
    if (r == 0)
        r = pick_port(p, to, "inputs", source->input, source->path, &edge.input, err);
    if (r < 0)
        return r;
    edge.id = qp_format("%zu.%s-%s", p->edge_count, from->name, to->name);
    struct qp_edge *grown = edge.id ? realloc(p->edges, (p->edge_count + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(edge.id);
        return qp_fail_memory(err, 0, "an edge");
    }
    p->edges = grown;
    p->edges[p->edge_count++] = edge;
    return 0;
}

bool qp_has_edge(const struct qp_pipeline *p, size_t instance, bool input, const char *port)
{
    for (size_t i = 0; i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        if ((input ? e->to : e->from) == instance && strcmp(input ? e->input : e->output, port) == 0)
            return true;
    }
    return false;
}

static bool is_loose(const struct qp_pipeline *p, size_t index, bool input, const json_t *port)
{
    return !json_is_true(json_object_get(port, "optional")) && !qp_has_edge(p, index, input, qp_text_of(port, "name"));
}

static int check_loose_ends(const struct qp_pipeline *p, size_t index, struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    size_t i;
    json_t *port;
    json_array_foreach(qp_ports_of(in, "inputs"), i, port)
        if (is_loose(p, index, true, port))
            return qp_document_fail_key(p->document, in->path, err,
                                        "stage `%s` gets nothing at its input `%s`; add `from: STAGE`", in->name,
                                        qp_text_of(port, "name"));
    json_array_foreach(qp_ports_of(in, "outputs"), i, port)
        if (is_loose(p, index, false, port))
            return qp_document_fail_key(p->document, in->path, err,
                                        "output `%s` of stage `%s` goes nowhere; add a stage with `from: %s`",
                                        qp_text_of(port, "name"), in->name, in->name);
    return 0;
}

static int build_edges(struct qp_pipeline *p, struct qp_error *err)
{
    for (size_t i = 0; i < p->count; i++)
        for (size_t s = 0; s < p->instances[i].source_count; s++) {
            int r = add_edge(p, &p->instances[i], &p->instances[i].sources[s], err);
            if (r < 0)
                return r;
        }
    return 0;
}

/* ---- order ---- */

static bool is_ready(const struct qp_pipeline *p, size_t index, const bool *placed)
{
    for (size_t i = 0; i < p->edge_count; i++)
        if (p->edges[i].to == index && !p->edges[i].delay && !placed[p->edges[i].from])
            return false;
    return true;
}

/* Every instance that is not placed has one upstream that is not: walking up comes round. */
static int cycle(const struct qp_pipeline *p, const bool *placed, struct qp_error *err)
{
    size_t at = 0, steps[QP_MAX_INSTANCES], count = 0;
    const struct qp_edge *into[QP_MAX_INSTANCES] = {NULL};
    while (placed[at])
        at++;
    while (!into[at]) {
        for (size_t i = 0; i < p->edge_count && !into[at]; i++)
            if (p->edges[i].to == at && !p->edges[i].delay && !placed[p->edges[i].from])
                into[at] = &p->edges[i];
        at = into[at]->from;
    }
    size_t first = at;
    do
        steps[count++] = at = into[at]->from;
    while (at != first);
    char text[1024];
    snprintf(text, sizeof text, "%s", p->instances[first].name);
    for (count--; count > 0;) /* steps go upstream and end at the first; arrows go down */
        snprintf(text + strlen(text), sizeof text - strlen(text), " -> %s", p->instances[steps[--count]].name);
    snprintf(text + strlen(text), sizeof text - strlen(text), " -> %s", p->instances[first].name);
    return qp_document_fail(p->document, into[first]->path, err,
                            "the stages form a cycle: %s; take one `from` out of it, or let blocks come back "
                            "later at a stage that has an input for that: from: {in: STAGE, feedback: {from: STAGE, "
                            "delay: 1}}",
                            text);
}

static int find_order(struct qp_pipeline *p, struct qp_error *err)
{
    bool placed[QP_MAX_INSTANCES] = {false};
    for (size_t done = 0; done < p->count;) {
        size_t next = 0;
        while (next < p->count && (placed[next] || !is_ready(p, next, placed)))
            next++;
        if (next == p->count)
            return cycle(p, placed, err);
        placed[next] = true;
        p->order[done++] = next;
    }
    return 0;
}

/* ---- feedback ---- */

/* Whether units get from one instance to another without coming back from anywhere. */
static bool leads_to(const struct qp_pipeline *p, size_t from, size_t to)
{
    bool seen[QP_MAX_INSTANCES] = {false};
    seen[from] = true;
    for (size_t o = 0; o < p->count; o++)
        for (size_t i = 0; seen[p->order[o]] && i < p->edge_count; i++)
            if (p->edges[i].from == p->order[o] && !p->edges[i].delay)
                seen[p->edges[i].to] = true;
    return seen[to];
}

/* A feedback input and a delayed edge belong together, and close a cycle. */
static int check_delay(const struct qp_pipeline *p, const struct qp_edge *e, struct qp_error *err)
{
    const struct qp_instance *from = &p->instances[e->from], *to = &p->instances[e->to];
    const json_t *port = qp_named(qp_ports_of(to, "inputs"), "name", e->input);
    bool feedback = json_is_true(json_object_get(port, "feedback"));
    if (feedback && !e->delay)
        return qp_document_fail(p->document, e->path, err,
                                "input `%s` of stage `%s` takes blocks that come back: write {from: %s, delay: 1}",
                                e->input, to->name, from->name);
    if (!feedback && e->delay)
        return qp_document_fail(p->document, e->path, err,
                                "input `%s` of stage `%s` takes no blocks that come back; remove `delay`", e->input,
                                to->name);
    if (e->delay && !leads_to(p, e->to, e->from))
        return qp_document_fail(p->document, e->path, err,
                                "nothing comes back from stage `%s`, which gets nothing of what `%s` puts out; name a "
                                "stage after `%s`",
                                from->name, to->name, to->name);
    return 0;
}

static int check_delays(const struct qp_pipeline *p, struct qp_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->edge_count; i++)
        r = check_delay(p, &p->edges[i], err);
    return r;
}

/* ---- types ---- */

static void feature_text(const json_t *set, char *text, size_t size)
{
    const char *key;
    json_t *value;
    snprintf(text, size, "[");
    json_object_foreach((json_t *)set, key, value)
        snprintf(text + strlen(text), size - strlen(text), "%s%s", text[1] ? ", " : "", key);
    snprintf(text + strlen(text), size - strlen(text), "]");
}

static int check_edge(const struct qp_pipeline *p, const struct qp_edge *e, const json_t *provided,
                      struct qp_error *err)
{
    const struct qp_instance *from = &p->instances[e->from], *to = &p->instances[e->to];
    const json_t *needs = json_object_get(qp_named(qp_ports_of(to, "inputs"), "name", e->input), "needs");
    size_t i;
    json_t *need;
    json_array_foreach(needs, i, need) {
        if (json_object_get(provided, json_string_value(need)))
            continue;
        char has[512], wants[512] = "[";
        size_t j;
        json_t *feature;
        feature_text(provided, has, sizeof has);
        json_array_foreach(needs, j, feature)
            snprintf(wants + strlen(wants), sizeof wants - strlen(wants), "%s%s", j ? ", " : "",
                     json_string_value(feature));
        return qp_document_fail(p->document, e->path, err,
                                "%s.%s needs %s], but %s.%s provides %s: the first that is missing is `%s`; put a "
                                "stage that provides it between them",
                                to->name, e->input, wants, from->name, e->output, has, json_string_value(need));
    }
    return 0;
}

/* What an edge carries; a new reference. */
static json_t *provided_by(const struct qp_pipeline *p, const struct qp_edge *e, json_t **sets)
{
    json_t *provided = json_copy(sets[e->from]);
    const json_t *port = qp_named(qp_ports_of(&p->instances[e->from], "outputs"), "name", e->output);
    size_t i;
    json_t *feature;
    json_array_foreach(json_object_get(port, "provides"), i, feature)
        json_object_set_new(provided, json_string_value(feature), json_true());
    return provided;
}

/* sets[i]: what stage i's inputs carry; its outputs carry that and what they provide. */
static int check_types(const struct qp_pipeline *p, json_t **sets, struct qp_error *err)
{
    for (size_t o = 0; o < p->count; o++)
        for (size_t i = 0; i < p->edge_count; i++) {
            const struct qp_edge *e = &p->edges[i];
            if (e->to != p->order[o] || e->delay)
                continue;
            qp_auto_json json_t *provided = provided_by(p, e, sets);
            int r = provided ? check_edge(p, e, provided, err) : qp_fail_memory(err, 0, "features");
            if (r < 0)
                return r;
            if (json_object_update(sets[e->to], provided) < 0)
                return qp_fail_memory(err, 0, "features");
        }
    return 0;
}

/* What comes back has features that do not go on: they are for the stage alone. */
static int check_feedback_types(const struct qp_pipeline *p, json_t **sets, struct qp_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->edge_count; i++) {
        qp_auto_json json_t *provided = provided_by(p, &p->edges[i], sets);
        if (p->edges[i].delay)
            r = provided ? check_edge(p, &p->edges[i], provided, err) : qp_fail_memory(err, 0, "features");
    }
    return r;
}

static int type_check(const struct qp_pipeline *p, struct qp_error *err)
{
    json_t *sets[QP_MAX_INSTANCES];
    for (size_t i = 0; i < p->count; i++)
        sets[i] = json_object();
    int r = check_types(p, sets, err);
    if (r == 0)
        r = check_feedback_types(p, sets, err);
    for (size_t i = 0; i < p->count; i++)
        json_decref(sets[i]);
    return r;
}

int qp_graph_build(struct qp_pipeline *pipeline, struct qp_error *err)
{
    int r = build_edges(pipeline, err);
    if (r == 0)
        r = find_order(pipeline, err);
    for (size_t i = 0; r == 0 && i < pipeline->count; i++)
        r = check_loose_ends(pipeline, i, err);
    if (r == 0)
        r = check_delays(pipeline, err);
    if (r == 0)
        r = qp_holds_check(pipeline, err);
    if (r == 0)
        r = type_check(pipeline, err);
    for (size_t i = 0; r == 0 && i < pipeline->count; i++)
        r = qp_needs_place(pipeline, i, err);
    return r;
}
