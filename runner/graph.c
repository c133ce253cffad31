/* The graph of stages: edges, order, and what has to hold before anything is started. Sets of features are objects
 * whose keys are the features. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "runner/pipeline.h"

static const json_t *ports_of(const struct qp_instance *in, const char *side)
{
    return json_object_get(in->descriptor, side);
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static const json_t *find_port(const json_t *ports, const char *name)
{
    size_t i;
    json_t *port;
    json_array_foreach(ports, i, port)
        if (strcmp(text_of(port, "name"), name) == 0)
            return port;
    return NULL;
}

static void port_names(const json_t *ports, char *text, size_t size)
{
    size_t i;
    json_t *port;
    text[0] = '\0';
    json_array_foreach(ports, i, port)
        snprintf(text + strlen(text), size - strlen(text), "%s%s", i ? ", " : "", text_of(port, "name"));
}

/* ---- edges ---- */

/* The only port, or the only one that takes no feedback; NULL when there are several, or none. */
static const json_t *only_port(const json_t *ports)
{
    const json_t *found = NULL;
    size_t i, count = 0;
    json_t *port;
    json_array_foreach(ports, i, port)
        if (!json_is_true(json_object_get(port, "feedback"))) {
            found = port;
            count++;
        }
    return count == 1 ? found : NULL;
}

/* The port that `name` means: the only one when it is NULL. `side`: "inputs" or "outputs". */
static int pick_port(const struct qp_pipeline *p, const struct qp_instance *in, const char *side, const char *name,
                     const char *path, const char **out, struct qp_error *err)
{
    const json_t *ports = ports_of(in, side);
    const json_t *port = name ? find_port(ports, name) : only_port(ports);
    char list[256];
    port_names(ports, list, sizeof list);
    if (!port && json_array_size(ports) == 0)
        return qp_document_fail(p->document, path, err, "stage `%s` has no %.*s", in->name, (int)strlen(side) - 1,
                                side);
    if (!port && !name)
        return qp_document_fail(p->document, path, err, "stage `%s` has several %s: say which one of %s", in->name,
                                side, list);
    if (!port)
        return qp_document_fail(p->document, path, err, "stage `%s` has no %.*s `%s`; it has: %s", in->name,
                                (int)strlen(side) - 1, side, name, list);
    *out = text_of(port, "name");
    return 0;
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

static bool has_edge(const struct qp_pipeline *p, size_t instance, bool input, const char *port)
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
    return !json_is_true(json_object_get(port, "optional")) && !has_edge(p, index, input, text_of(port, "name"));
}

static int check_loose_ends(const struct qp_pipeline *p, size_t index, struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    size_t i;
    json_t *port;
    json_array_foreach(ports_of(in, "inputs"), i, port)
        if (is_loose(p, index, true, port))
            return qp_document_fail_key(p->document, in->path, err,
                                        "stage `%s` gets nothing at its input `%s`; add `from: STAGE`", in->name,
                                        text_of(port, "name"));
    json_array_foreach(ports_of(in, "outputs"), i, port)
        if (is_loose(p, index, false, port))
            return qp_document_fail_key(p->document, in->path, err,
                                        "output `%s` of stage `%s` goes nowhere; add a stage with `from: %s`",
                                        text_of(port, "name"), in->name, in->name);
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
                            "the stages go round in a circle: %s; take one `from` out of it, or let blocks come back "
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

/* A feedback input and a delayed edge belong together, and close a circle. */
static int check_delay(const struct qp_pipeline *p, const struct qp_edge *e, struct qp_error *err)
{
    const struct qp_instance *from = &p->instances[e->from], *to = &p->instances[e->to];
    const json_t *port = find_port(ports_of(to, "inputs"), e->input);
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
                                "stage behind `%s`",
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
    const json_t *needs = json_object_get(find_port(ports_of(to, "inputs"), e->input), "needs");
    size_t i;
    json_t *need;
    json_array_foreach(needs, i, need) {
        if (json_object_get(provided, json_string_value(need)))
            continue;
        char has[512], wants[512] = "[";
        size_t j;
        json_t *word;
        feature_text(provided, has, sizeof has);
        json_array_foreach(needs, j, word)
            snprintf(wants + strlen(wants), sizeof wants - strlen(wants), "%s%s", j ? ", " : "",
                     json_string_value(word));
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
    const json_t *port = find_port(ports_of(&p->instances[e->from], "outputs"), e->output);
    size_t i;
    json_t *word;
    json_array_foreach(json_object_get(port, "provides"), i, word)
        json_object_set_new(provided, json_string_value(word), json_true());
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

/* ---- needs that travel upstream ---- */

static bool has_word(const json_t *words, const char *word)
{
    size_t i;
    json_t *item;
    json_array_foreach(words, i, item)
        if (strcmp(json_string_value(item), word) == 0)
            return true;
    return false;
}

static bool collects(const struct qp_pipeline *p, size_t index, const char *what)
{
    return has_word(json_object_get(p->instances[index].descriptor, "collects"), what);
}

/* The input that a stage can collect `what` with, or NULL. `connected`: only one that something leads into. */
static const json_t *collecting_input(const struct qp_pipeline *p, size_t index, const char *what, bool connected)
{
    size_t i;
    json_t *port;
    json_array_foreach(ports_of(&p->instances[index], "inputs"), i, port)
        if (has_word(json_object_get(port, "collects"), what) &&
            (!connected || has_edge(p, index, true, text_of(port, "name"))))
            return port;
    return NULL;
}

static bool can_collect(const struct qp_pipeline *p, size_t index, const char *what)
{
    return collects(p, index, what) || collecting_input(p, index, what, true);
}

static bool could_collect(const struct qp_pipeline *p, size_t index, const char *what)
{
    return collecting_input(p, index, what, false) != NULL;
}

/* The nearest stage upstream of `index` that suits, or -1: breadth first over edges. */
static int find_collector(const struct qp_pipeline *p, size_t index, const char *what,
                          bool (*suits)(const struct qp_pipeline *, size_t, const char *))
{
    size_t queue[QP_MAX_INSTANCES] = {index}, count = 1;
    bool seen[QP_MAX_INSTANCES] = {false};
    seen[index] = true;
    for (size_t head = 0; head < count; head++)
        for (size_t i = 0; i < p->edge_count; i++) {
            size_t from = p->edges[i].from;
            if (p->edges[i].to != queue[head] || p->edges[i].delay || seen[from])
                continue;
            if (suits(p, from, what))
                return (int)from;
            seen[from] = true;
            queue[count++] = from;
        }
    return -1;
}

/* The value of a parameter as text, the default where the user wrote none. */
static const char *param_text(const struct qp_instance *in, const char *name, char *text, size_t size)
{
    const json_t *value = json_object_get(in->params, name);
    if (!value) {
        size_t i;
        json_t *param;
        json_array_foreach(json_object_get(in->descriptor, "params"), i, param)
            if (strcmp(text_of(param, "name"), name) == 0)
                value = json_object_get(param, "default");
    }
    if (json_is_string(value))
        snprintf(text, size, "%s", json_string_value(value));
    else if (json_is_integer(value))
        snprintf(text, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(text, size, "%g", json_real_value(value));
    else
        snprintf(text, size, "%s", json_is_true(value) ? "true" : json_is_false(value) ? "false" : "");
    return text;
}

/* Whether a parameter is set to something: not to 0, 0%, false, none or nothing. */
static bool is_something(const char *value)
{
    char *end;
    double number = strtod(value, &end);
    bool zero = end != value && number == 0 && (*end == '\0' || strcmp(end, "%") == 0);
    return *value && !zero && strcmp(value, "false") != 0 && strcmp(value, "none") != 0;
}

/* Whether the scheme of the instance's branch, or one of all that share it, has what `word` says. One that cannot be
 * read has nothing: that is told when schemes are checked. */
static bool scheme_has(const struct qp_pipeline *p, const struct qp_instance *in, const char *word)
{
    bool found = false;
    for (size_t i = 0; i < p->branch_count; i++) {
        struct qp_scheme *scheme = NULL;
        struct qp_error unused;
        if (in->branch != QP_SHARED && (size_t)in->branch != i)
            continue;
        found |= qp_scheme_parse(p->branches[i].source, &scheme, &unused) == 0 && qp_scheme_has(scheme, word);
        qp_scheme_free(scheme);
    }
    return found;
}

static bool is_active(const struct qp_pipeline *p, const struct qp_instance *in, const json_t *need)
{
    const char *scheme = text_of(need, "scheme");
    if (scheme && !scheme_has(p, in, scheme))
        return false;
    const char *param = text_of(need, "param"), *wanted = text_of(need, "value");
    char value[256];
    if (!param)
        return true;
    param_text(in, param, value, sizeof value);
    return wanted ? strcmp(value, wanted) == 0 : is_something(value);
}

/* "method: gptq of stage `quantize`", "the scheme's kv_cache in stage `quantize`", or "stage `quantize`". */
static void reason(const struct qp_instance *in, const json_t *need, char *text, size_t size)
{
    char value[128];
    const char *param = text_of(need, "param"), *scheme = text_of(need, "scheme");
    if (scheme)
        snprintf(text, size, "the scheme's %s in stage `%s`",
                 strcmp(scheme, "static") == 0 ? "fixed ranges of activations" : scheme, in->name);
    else if (param)
        snprintf(text, size, "`%s: %s` of stage `%s`", param, param_text(in, param, value, sizeof value), in->name);
    else
        snprintf(text, size, "stage `%s`", in->name);
}

static int check_data(const struct qp_pipeline *p, const struct qp_instance *in, const char *why, struct qp_error *err)
{
    const char *entry = text_of(in->descriptor, "data");
    if (!entry || json_object_get(p->data, entry))
        return 0;
    return qp_document_fail_key(p->document, in->path, err,
                                "%s needs data, which stage `%s` reads from `data.%s`, and that is not there; add "
                                "data: {%s: {text: FILE}} (or {synthetic: true})",
                                why, in->name, entry, entry);
}

static int no_collector(const struct qp_pipeline *p, size_t index, const char *what, const char *why,
                        struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    int could = find_collector(p, index, what, could_collect);
    if (could < 0)
        return qp_document_fail_key(
            p->document, in->path, err,
            "%s needs `%s`, and no stage upstream collects it; put a stage that does (calibrate) before it", why, what);
    const char *input = text_of(collecting_input(p, (size_t)could, what, false), "name");
    return qp_document_fail_key(p->document, p->instances[could].path, err,
                                "%s needs `%s`, which stage `%s` collects only with something at its input `%s`: write "
                                "from: {in: STAGE, %s: {from: %s, delay: 1}}",
                                why, what, p->instances[could].name, input, input, in->name);
}

static int place_need(struct qp_pipeline *p, size_t index, const json_t *need, struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    const char *what = text_of(need, "what");
    char why[256];
    reason(in, need, why, sizeof why);
    int collector = find_collector(p, index, what, can_collect);
    if (collector < 0)
        return no_collector(p, index, what, why, err);
    struct qp_instance *from = &p->instances[collector];
    if (!has_word(from->wants, what) && json_array_append_new(from->wants, json_string(what)) < 0)
        return qp_fail_memory(err, 0, what);
    return check_data(p, from, why, err);
}

static int place_needs(struct qp_pipeline *p, size_t index, struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    size_t i;
    json_t *need;
    json_array_foreach(json_object_get(in->descriptor, "needs"), i, need) {
        int r = is_active(p, in, need) ? place_need(p, index, need, err) : 0;
        if (r < 0)
            return r;
    }
    bool collects = json_array_size(json_object_get(in->descriptor, "collects")) > 0;
    if (collects || json_is_true(json_object_get(in->descriptor, "data_optional")))
        return 0;
    char why[128];
    snprintf(why, sizeof why, "stage `%s`", in->name);
    return check_data(p, in, why, err);
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
        r = type_check(pipeline, err);
    for (size_t i = 0; r == 0 && i < pipeline->count; i++)
        r = place_needs(pipeline, i, err);
    return r;
}
