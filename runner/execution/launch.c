/* Processes of the stages, and what each is sent when all have sent hello. */
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/wire/times.h"
#include "runner/pipeline/graph.h"
#include "runner/machine.h"
#include "runner/process.h"
#include "runner/execution/supervise.h"

static int open_log(struct qp_supervisor *s, struct qp_child *child, struct qp_error *err)
{
    child->log_path = qp_run_path(s->run, "logs/%s.0.log", child->instance->name);
    if (!child->log_path)
        return qp_fail_memory(err, 0, "a path");
    child->log = open(child->log_path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    return child->log < 0 ? qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot create", child->log_path) : 0;
}

/* COMMAND... --control ENDPOINT --instance NAME --replica 0 */
static int start(struct qp_supervisor *s, struct qp_child *child, struct qp_error *err)
{
    const struct qp_instance *in = child->instance;
    const char *tail[] = {"--control", qp_control_endpoint(s->control), "--instance", in->name, "--replica", "0", NULL};
    size_t count = 0;
    while (in->command[count])
        count++;
    qp_auto_free char **argv = calloc(count + sizeof tail / sizeof *tail, sizeof *argv);
    if (!argv)
        return qp_fail_memory(err, count, in->name);
    memcpy(argv, in->command, count * sizeof *argv);
    memcpy(argv + count, tail, sizeof tail);
    const char *folder = in->own ? s->run->plan->pipeline->document->folder : NULL;
    struct qp_stdio stdio = {-1, child->log, child->log};
    int r = qp_process_start(argv, folder, &stdio, &child->pid, err);
    if (r < 0)
        return qp_wrap(err, "stage `%s`", in->name);
    child->message_at = qp_now();
    return 0;
}

int qp_launch(struct qp_supervisor *s, struct qp_error *err)
{
    /* A thread that waits for work must sleep: seven stages share the cores. */
    setenv("OMP_WAIT_POLICY", "passive", 0);
    setenv(QP_CONFIG_VARIABLE, "0", 1);
    for (size_t i = 0; i < s->count; i++) {
        int r = open_log(s, &s->children[i], err);
        if (r == 0)
            r = start(s, &s->children[i], err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- config ---- */

static json_t *inputs_of(const struct qp_supervisor *s, size_t index)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    json_t *inputs = json_array();
    for (size_t i = 0; i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        const struct qp_child *from = &s->children[e->from];
        if (e->to != index)
            continue;
        json_t *input = json_pack("{s:s, s:s, s:[{s:s, s:i, s:O, s:s}]}", "port", e->input, "edge", e->id, "from",
                                  "instance", from->instance->name, "replica", 0, "endpoint",
                                  json_object_get(from->endpoints, e->output), "host", from->host);
        if (e->delay)
            json_object_set_new(input, "delay", json_integer(e->delay));
        json_array_append_new(inputs, input);
    }
    return inputs;
}

static json_t *outputs_of(const struct qp_supervisor *s, size_t index)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    json_t *outputs = json_array();
    size_t i;
    json_t *port;
    json_array_foreach(json_object_get(p->instances[index].descriptor, "outputs"), i, port) {
        json_t *edges = json_array();
        const char *name = json_string_value(json_object_get(port, "name"));
        for (size_t e = 0; e < p->edge_count; e++)
            if (p->edges[e].from == index && strcmp(p->edges[e].output, name) == 0)
                json_array_append_new(edges, json_pack("{s:s, s:i}", "edge", p->edges[e].id, "consumers", 1));
        json_array_append_new(outputs, json_pack("{s:s, s:o}", "port", name, "edges", edges));
    }
    return outputs;
}

static void add_root(json_t *roots, const char *path)
{
    qp_auto_free char *real = realpath(path, NULL);
    size_t i;
    json_t *root;
    json_array_foreach(roots, i, root)
        if (real && strcmp(json_string_value(root), real) == 0)
            return;
    if (real)
        json_array_append_new(roots, json_string(real));
}

json_t *qp_run_roots(const struct qp_run *run)
{
    const char *model = run->plan->pipeline->model;
    json_t *roots = json_array();
    qp_auto_free char *scratch = qp_run_path(run, "scratch");
    qp_auto_free char *folder = qp_is_folder(model) ? strdup(model) : qp_folder_of(model);
    qp_auto_free char *pattern = folder ? qp_format("%s/*", folder) : NULL;
    glob_t files = {0};
    if (!pattern)
        return roots;
    add_root(roots, folder);
    if (scratch)
        add_root(roots, scratch);
    if (glob(pattern, 0, NULL, &files) == 0)
        for (size_t i = 0; i < files.gl_pathc; i++) {
            qp_auto_free char *real = realpath(files.gl_pathv[i], NULL);
            qp_auto_free char *above = real ? qp_folder_of(real) : NULL;
            if (above && !qp_is_folder(real))
                add_root(roots, above);
        }
    globfree(&files);
    return roots;
}

/* Whether units come to this stage of a branch from a stage that all share. */
static bool begins_branch(const struct qp_pipeline *p, size_t index)
{
    for (size_t i = 0; i < p->edge_count; i++)
        if (p->edges[i].to == index && p->instances[p->edges[i].from].branch != p->instances[index].branch)
            return true;
    return false;
}

/* What all schemes share sees the first one. */
static json_t *context_of(const struct qp_run *run, size_t index)
{
    const struct qp_pipeline *p = run->plan->pipeline;
    const struct qp_instance *in = &p->instances[index];
    const struct qp_branch *b = &p->branches[in->branch == QP_SHARED ? 0 : in->branch];
    const char *entry = json_string_value(json_object_get(in->descriptor, "data"));
    json_t *data = entry ? json_object_get(p->data, entry) : NULL;
    const struct qp_output_record *output = &run->output_records[b - p->branches];
    json_t *context = json_pack("{s:s, s:O, s:s, s:s, s:O?}", "model", p->model, "scheme", b->scheme->source, "output",
                                output->written, "destination", b->output, "data", data);
    if (context && begins_branch(p, index))
        json_object_set_new(context, "replaces_scheme", json_true());
    return context;
}

json_t *qp_child_config(const struct qp_supervisor *s, size_t index)
{
    const struct qp_pipeline *p = s->run->plan->pipeline;
    const struct qp_instance *in = &p->instances[index];
    qp_auto_free char *scratch = qp_run_path(s->run, "scratch/%s.0", in->name);
    uint64_t memory = in->memory ? in->memory : qp_machine_memory() / 4;
    memory = p->memory && p->memory < memory ? p->memory : memory;
    json_t *config =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:o, s:i, s:I, s:I, s:o}", "run", s->run->id, "params",
                  qp_params_of(in), "wants", qp_wants_of(p, index), "context", context_of(s->run, index), "inputs",
                  inputs_of(s, index), "outputs", outputs_of(s, index), "scratch", scratch, "roots",
                  qp_run_roots(s->run), "threads", in->threads ? in->threads : qp_machine_cores(), "memory",
                  (json_int_t)memory, "blocks", (json_int_t)qp_blocks_on_the_way(p), "drops", qp_drops_of(p, index));
    return config;
}
