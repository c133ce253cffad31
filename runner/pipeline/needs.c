/* Needs that travel upstream: what a stage asks for is collected by the nearest stage before it that can, from data
 * that the pipeline has to name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runner/pipeline/graph.h"

static bool has_name(const json_t *names, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(names, i, item)
        if (strcmp(json_string_value(item), name) == 0)
            return true;
    return false;
}

static bool collects(const struct qp_pipeline *p, size_t index, const char *what)
{
    return has_name(json_object_get(p->instances[index].descriptor, "collects"), what);
}

/* The input that a stage can collect `what` with, or NULL. `connected`: only one that something leads into. */
static const json_t *collecting_input(const struct qp_pipeline *p, size_t index, const char *what, bool connected)
{
    size_t i;
    json_t *port;
    json_array_foreach(qp_ports_of(&p->instances[index], "inputs"), i, port)
        if (has_name(json_object_get(port, "collects"), what) &&
            (!connected || qp_has_edge(p, index, true, qp_text_of(port, "name"))))
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
    if (!value)
        value = json_object_get(qp_named(json_object_get(in->descriptor, "params"), "name", name), "default");
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

/* Whether the scheme of the instance's branch, or one of all that share it, has feature `name`. One that cannot be
 * read has nothing: that is told when schemes are checked. */
static bool scheme_has(const struct qp_pipeline *p, const struct qp_instance *in, const char *name)
{
    bool found = false;
    for (size_t i = 0; i < p->branch_count; i++) {
        struct qp_scheme *scheme = NULL;
        struct qp_error unused;
        if (in->branch != QP_SHARED && (size_t)in->branch != i)
            continue;
        found |= qp_scheme_parse(p->branches[i].source, &scheme, &unused) == 0 && qp_scheme_has(scheme, name);
        qp_scheme_free(scheme);
    }
    return found;
}

static bool is_active(const struct qp_pipeline *p, const struct qp_instance *in, const json_t *need)
{
    const char *scheme = qp_text_of(need, "scheme");
    if (scheme && !scheme_has(p, in, scheme))
        return false;
    const char *param = qp_text_of(need, "param"), *wanted = qp_text_of(need, "value");
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
    const char *param = qp_text_of(need, "param"), *scheme = qp_text_of(need, "scheme");
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
    const char *entry = qp_text_of(in->descriptor, "data");
    if (!entry || json_object_get(p->data, entry))
        return 0;
    return qp_document_fail_key(p->document, in->path, err,
                                "%s needs data, which stage `%s` reads from `data.%s`, and that is not there; add "
                                "data: {%s: {text: FILE}} (or {synthetic: true}), or --%s FILE to the command",
                                why, in->name, entry, entry, entry);
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
    const char *input = qp_text_of(collecting_input(p, (size_t)could, what, false), "name");
    return qp_document_fail_key(p->document, p->instances[could].path, err,
                                "%s needs `%s`, which stage `%s` collects only with something at its input `%s`: write "
                                "from: {in: STAGE, %s: {from: %s, delay: 1}}",
                                why, what, p->instances[could].name, input, input, in->name);
}

static int place_need(struct qp_pipeline *p, size_t index, const json_t *need, struct qp_error *err)
{
    const struct qp_instance *in = &p->instances[index];
    const char *what = qp_text_of(need, "what");
    char why[256];
    reason(in, need, why, sizeof why);
    int collector = find_collector(p, index, what, can_collect);
    if (collector < 0)
        return no_collector(p, index, what, why, err);
    struct qp_instance *from = &p->instances[collector];
    if (!has_name(from->wants, what) && json_array_append_new(from->wants, json_string(what)) < 0)
        return qp_fail_memory(err, 0, what);
    return check_data(p, from, why, err);
}

bool qp_needs_any(const struct qp_pipeline *p, size_t index)
{
    const struct qp_instance *in = &p->instances[index];
    size_t i;
    json_t *need;
    json_array_foreach(json_object_get(in->descriptor, "needs"), i, need)
        if (is_active(p, in, need))
            return true;
    return false;
}

int qp_needs_place(struct qp_pipeline *p, size_t index, struct qp_error *err)
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

/* Whether stage `index` and all after it take a form; edges that go back count as well. */
static bool all_take(const struct qp_pipeline *p, size_t index, const char *form, bool *seen)
{
    seen[index] = true;
    bool take = has_name(json_object_get(p->instances[index].descriptor, "forms"), form);
    for (size_t i = 0; take && i < p->edge_count; i++)
        if (p->edges[i].from == index && !seen[p->edges[i].to])
            take = all_take(p, p->edges[i].to, form, seen);
    return take;
}

json_t *qp_wants_of(const struct qp_pipeline *p, size_t index)
{
    json_t *wants = json_copy(p->instances[index].wants), *form;
    size_t i;
    json_array_foreach(json_object_get(p->instances[index].descriptor, "forms"), i, form) {
        bool seen[QP_MAX_INSTANCES] = {false};
        if (all_take(p, index, json_string_value(form), seen))
            json_array_append(wants, form);
    }
    return wants;
}

/* ---- what may be dropped ---- */

/* A stage that does not say what it reads may read anything. */
static bool may_read(const struct qp_instance *in, const char *what)
{
    const json_t *uses = json_object_get(in->descriptor, "uses");
    size_t i;
    json_t *need;
    if (!json_is_array(uses) || has_name(uses, what))
        return true;
    json_array_foreach(json_object_get(in->descriptor, "needs"), i, need)
        if (strcmp(qp_text_of(need, "what"), what) == 0)
            return true;
    return false;
}

/* Whether a stage after `index` does; what goes back in a cycle comes by again. */
static bool is_read_after(const struct qp_pipeline *p, size_t index, const char *what, bool *seen)
{
    for (size_t i = 0; i < p->edge_count; i++) {
        size_t to = p->edges[i].to;
        if (p->edges[i].from != index || seen[to])
            continue;
        seen[to] = true;
        if (may_read(&p->instances[to], what) || is_read_after(p, to, what, seen))
            return true;
    }
    return false;
}

json_t *qp_drops_of(const struct qp_pipeline *p, size_t index)
{
    json_t *drops = json_array(), *what;
    size_t k;
    for (size_t i = 0; i < p->count; i++)
        json_array_foreach(p->instances[i].wants, k, what) {
            bool seen[QP_MAX_INSTANCES] = {false};
            if (!has_name(drops, json_string_value(what)) && !is_read_after(p, index, json_string_value(what), seen))
                json_array_append(drops, what);
        }
    return drops;
}
