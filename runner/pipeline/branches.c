/* Several schemes in one run: a branch of stages for each, after the stages that all of them share. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/pipeline.h"

#define PLACEHOLDER "{scheme}"
#define SCHEME_MOST 32 /* name of a scheme in a list */
#define NAME_MOST 63   /* name of an instance: a routing id, a file, a part of a socket's path */

bool qp_has_branches(const struct qp_pipeline *pipeline)
{
    return json_is_array(pipeline->scheme);
}

const char *qp_base_name(const struct qp_instance *instance, char *text, size_t size)
{
    snprintf(text, size, "%.*s", (int)strcspn(instance->name, "@"), instance->name);
    return text;
}

/* ---- reading ---- */

char *qp_output_of(const char *pattern, const char *name, bool several)
{
    const char *at = strstr(pattern, PLACEHOLDER);
    if (at)
        return qp_format("%.*s%s%s", (int)(at - pattern), pattern, name, at + strlen(PLACEHOLDER));
    return several ? qp_format("%s-%s", pattern, name) : strdup(pattern);
}

static int check_name(const struct qp_pipeline *p, const char *name, const char *path, struct qp_error *err)
{
    if (!name)
        return qp_document_fail(
            p->document, path, err,
            "a mapping in a list of schemes needs a `name`: its stages and output are called by it");
    if (!qp_is_name(name) || strlen(name) > SCHEME_MOST)
        return qp_document_fail(p->document, path, err,
                                "a scheme in a list is named by 1 to %d letters, digits, `_` and `-`, not `%.60s`",
                                SCHEME_MOST, name);
    for (size_t i = 0; i < p->branch_count; i++)
        if (strcmp(p->branches[i].name, name) == 0)
            return qp_document_fail(p->document, path, err, "two schemes are called `%s`; give one another `name`",
                                    name);
    return 0;
}

static int read_branch(struct qp_pipeline *p, json_t *source, const char *path, struct qp_error *err)
{
    bool several = qp_has_branches(p);
    char found[80];
    const char *name = json_string_value(json_is_string(source) ? source : json_object_get(source, "name"));
    if (!json_is_string(source) && !json_is_object(source))
        return qp_document_fail(p->document, path, err,
                                "`%s` is %s; expected a preset (`quantpipe schemes`), a mapping, or a list of these",
                                path, qp_json_found(source, found, sizeof found));
    int r = several ? check_name(p, name, path, err) : 0;
    if (r < 0)
        return r;
    struct qp_branch *b = &p->branches[p->branch_count++];
    *b =
        (struct qp_branch){.name = strdup(name ? name : "custom"), .path = strdup(path), .source = json_incref(source)};
    b->output = b->name ? qp_output_of(p->output, b->name, several) : NULL;
    return b->path && b->output ? 0 : qp_fail_memory(err, 0, path);
}

int qp_branches_read(struct qp_pipeline *p, struct qp_error *err)
{
    json_t *scheme = json_object_get(p->document->root, "scheme"), *item;
    size_t i, count = json_array_size(scheme);
    if (!scheme)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: the key `scheme` is missing; expected a preset (`quantpipe schemes`), a mapping, or a list "
                       "of these",
                       p->document->file);
    p->scheme = json_incref(scheme);
    if (!json_is_array(scheme))
        return read_branch(p, scheme, "scheme", err);
    if (count == 0 || count > QP_MAX_BRANCHES)
        return qp_document_fail(p->document, "scheme", err, "a list of %zu schemes; expected 1 to %d", count,
                                QP_MAX_BRANCHES);
    json_array_foreach(scheme, i, item) {
        char path[32];
        snprintf(path, sizeof path, "scheme.%zu", i);
        int r = read_branch(p, item, path, err);
        if (r < 0)
            return r;
    }
    return 0;
}

void qp_branches_free(struct qp_pipeline *p)
{
    for (size_t i = 0; i < p->branch_count; i++) {
        struct qp_branch *b = &p->branches[i];
        free(b->name);
        free(b->path);
        free(b->output);
        json_decref(b->source);
        qp_scheme_free(b->scheme);
    }
    p->branch_count = 0;
}

/* ---- what is shared ---- */

/* Index of the instance that a source names, or -1. */
static int index_of(const struct qp_pipeline *p, const struct qp_source *source)
{
    const struct qp_instance *in = qp_pipeline_find(p, source->instance);
    return in ? (int)(in - p->instances) : -1;
}

/* Marks an instance and all that it reads from. */
static void mark_upstream(const struct qp_pipeline *p, size_t index, bool *marked)
{
    if (marked[index])
        return;
    marked[index] = true;
    for (size_t i = 0; i < p->instances[index].source_count; i++) {
        int from = index_of(p, &p->instances[index].sources[i]);
        if (from >= 0)
            mark_upstream(p, (size_t)from, marked);
    }
}

static bool collects(const struct qp_instance *in)
{
    return json_array_size(json_object_get(in->descriptor, "collects")) > 0;
}

/* Whether some stage that collects is before this one: then this one belongs to a branch, even if it collects. */
static bool is_after_collector(const struct qp_pipeline *p, size_t index)
{
    bool upstream[QP_MAX_INSTANCES] = {false};
    mark_upstream(p, index, upstream);
    for (size_t i = 0; i < p->count; i++)
        if (i != index && upstream[i] && collects(&p->instances[i]))
            return true;
    return false;
}

/* The stages that collect statistics first and all before them; sources, whatever follows. */
static void find_shared(const struct qp_pipeline *p, bool *shared)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct qp_instance *in = &p->instances[i];
        if (in->source_count == 0)
            shared[i] = true;
        else if (collects(in) && !is_after_collector(p, i))
            mark_upstream(p, i, shared);
    }
}

/* What is after a shared stage is not the same for all schemes: it cannot feed back into it. */
static int refuse_feedback(const struct qp_pipeline *p, const bool *shared, struct qp_error *err)
{
    for (size_t i = 0; i < p->count; i++)
        for (size_t s = 0; shared[i] && s < p->instances[i].source_count; s++) {
            const struct qp_source *source = &p->instances[i].sources[s];
            int from = index_of(p, source);
            if (from >= 0 && is_after_collector(p, (size_t)from))
                return qp_document_fail(p->document, source->path, err,
                                        "stage `%s` feeds back into `%s`, which all schemes of the list share, and "
                                        "each scheme feeds back something else; run the schemes one by one, or take "
                                        "the feedback away",
                                        source->instance, p->instances[i].name);
        }
    return 0;
}

/* ---- copies ---- */

static char *copy_name(const struct qp_pipeline *p, const char *name, int branch)
{
    return branch == QP_SHARED ? strdup(name) : qp_format("%s@%s", name, p->branches[branch].name);
}

static int copy_sources(const struct qp_pipeline *p, const struct qp_instance *from, const bool *shared,
                        struct qp_instance *to, struct qp_error *err)
{
    to->sources = calloc(from->source_count ? from->source_count : 1, sizeof *to->sources);
    if (!to->sources)
        return qp_fail_memory(err, 0, from->name);
    for (; to->source_count < from->source_count; to->source_count++) {
        const struct qp_source *s = &from->sources[to->source_count];
        struct qp_source *t = &to->sources[to->source_count];
        int index = index_of(p, s);
        *t = *s;
        t->input = s->input ? strdup(s->input) : NULL;
        t->output = s->output ? strdup(s->output) : NULL;
        t->path = strdup(s->path);
        t->instance = copy_name(p, s->instance, index < 0 || shared[index] ? QP_SHARED : to->branch);
        if (!t->instance || !t->path || (s->input && !t->input) || (s->output && !t->output))
            return qp_fail_memory(err, 0, from->name);
    }
    return 0;
}

static int copy_command(const struct qp_instance *from, struct qp_instance *to, struct qp_error *err)
{
    size_t count = 0;
    while (from->command && from->command[count])
        count++;
    to->command = calloc(count + 1, sizeof *to->command);
    for (size_t i = 0; to->command && i < count; i++)
        if (!(to->command[i] = strdup(from->command[i])))
            return qp_fail_memory(err, 0, from->name);
    return to->command ? 0 : qp_fail_memory(err, 0, from->name);
}

static int copy_instance(const struct qp_pipeline *p, const struct qp_instance *from, const bool *shared, int branch,
                         struct qp_instance *to, struct qp_error *err)
{
    *to = *from;
    to->branch = branch;
    to->sources = NULL;
    to->source_count = 0;
    to->command = NULL;
    to->name = copy_name(p, from->name, branch);
    to->path = strdup(from->path);
    to->use = from->use ? strdup(from->use) : NULL;
    to->params = json_deep_copy(from->params);
    to->wants = json_array();
    json_incref(to->descriptor);
    if (!to->name || !to->path || (from->use && !to->use) || !to->params || !to->wants)
        return qp_fail_memory(err, 0, from->name);
    if (strlen(to->name) > NAME_MOST)
        return qp_document_fail(p->document, p->branches[branch].path, err,
                                "`%s` is longer than the %d characters of a stage's name; shorten the scheme's `name`",
                                to->name, NAME_MOST);
    int r = copy_command(from, to, err);
    return r < 0 ? r : copy_sources(p, from, shared, to, err);
}

/* Appends a copy of each instance that is (not) shared. */
static int copy_all(const struct qp_pipeline *p, const bool *shared, int branch, struct qp_instance *list,
                    size_t *count, struct qp_error *err)
{
    for (size_t i = 0; i < p->count; i++) {
        if (shared[i] != (branch == QP_SHARED))
            continue;
        int r = copy_instance(p, &p->instances[i], shared, branch, &list[(*count)++], err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int expand(const struct qp_pipeline *p, const bool *shared, struct qp_instance *list, size_t *count,
                  struct qp_error *err)
{
    int r = copy_all(p, shared, QP_SHARED, list, count, err);
    for (size_t b = 0; r == 0 && b < p->branch_count; b++)
        r = copy_all(p, shared, (int)b, list, count, err);
    return r;
}

int qp_branches_expand(struct qp_pipeline *p, struct qp_error *err)
{
    bool shared[QP_MAX_INSTANCES] = {false};
    if (!qp_has_branches(p))
        return 0;
    find_shared(p, shared);
    int r = refuse_feedback(p, shared, err);
    size_t most = 0, count = 0;
    for (size_t i = 0; i < p->count; i++)
        most += shared[i] ? 1 : p->branch_count;
    if (r == 0 && most > QP_MAX_INSTANCES)
        r = qp_document_fail(p->document, "scheme", err,
                             "%zu schemes make %zu stages of this pipeline; at most %d run together", p->branch_count,
                             most, QP_MAX_INSTANCES);
    struct qp_instance *list = r == 0 ? calloc(most, sizeof *list) : NULL;
    if (r == 0 && !list)
        r = qp_fail_memory(err, 0, "stages");
    if (r == 0)
        r = expand(p, shared, list, &count, err);
    if (r < 0) {
        qp_instances_free(list, count);
        return r;
    }
    qp_instances_free(p->instances, p->count);
    p->instances = list;
    p->count = count;
    return 0;
}
