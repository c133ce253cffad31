#include "runner/report/report.h"

#include <string.h>

#include "libstage/network/arch.h"
#include "runner/machine.h"
#include "runner/report/roofline.h"

const char *qp_report_status(int result)
{
    return result == 0                    ? "done"
           : result == QP_ERR_GATE        ? "gate"
           : result == QP_ERR_INTERRUPTED ? "cancelled"
                                          : "failed";
}

static json_t *command_of(const struct qp_args *args)
{
    json_t *arguments = json_array();
    for (int i = 0; i < args->argc; i++)
        json_array_append_new(arguments, json_string(args->argv[i]));
    return arguments;
}

/* What a stage reported under `key`; the last stage of the pipeline that did. Borrowed. */
static json_t *reported(const struct qp_record *record, const char *key)
{
    json_t *found = NULL;
    for (size_t i = 0; i < record->count; i++) {
        json_t *value = json_object_get(record->stages[record->plan->pipeline->order[i]].report, key);
        found = value ? value : found;
    }
    return found;
}

static json_t *model_of(const struct qp_record *record)
{
    const struct qp_plan *plan = record->plan;
    const struct qp_arch *arch = &plan->model->arch;
    json_t *model = json_pack("{s:s, s:s, s:I}", "path", plan->pipeline->model, "architecture", arch->class_name,
                              "parameters", (json_int_t)qp_arch_parameters(arch));
    json_t *more = reported(record, "model");
    if (json_is_object(more))
        json_object_update_existing(model, more);
    return model;
}

/* ---- outputs ---- */

/* What was reported under `key` by the last of the stages that `index` reads from, itself included. Borrowed. */
static json_t *reported_upstream(const struct qp_record *record, size_t index, const char *key)
{
    const struct qp_pipeline *p = record->plan->pipeline;
    bool upstream[QP_MAX_INSTANCES] = {false};
    json_t *found = NULL;
    upstream[index] = true;
    for (size_t o = p->count; o-- > 0 && !found;) {
        size_t at = p->order[o];
        for (size_t e = 0; upstream[at] && e < p->edge_count; e++)
            if (p->edges[e].to == at)
                upstream[p->edges[e].from] = true;
        if (upstream[at])
            found = json_object_get(record->stages[at].report, key);
    }
    return found;
}

/* The last stage of a branch: what is known of an output that nothing wrote is upstream of it. */
static size_t last_of(const struct qp_pipeline *p, int branch)
{
    size_t last = p->order[p->count - 1];
    for (size_t o = 0; o < p->count; o++)
        if (p->instances[p->order[o]].branch == branch)
            last = p->order[o];
    return last;
}

static json_t *gate_of(const struct qp_record *record, int branch, int result)
{
    char why[QP_ERROR_SIZE];
    bool judged = result == 0 || result == QP_ERR_GATE;
    return judged && qp_branch_refused(record, branch, why, sizeof why) ? json_string(why) : json_null();
}

/* Where a stage wrote is not where the output is now. A stage of the user's may have written elsewhere, on its own. */
static void set_path(const struct qp_record *record, int branch, json_t *output)
{
    const struct qp_output_record *o = &record->outputs[branch];
    const char *reported_path = json_string_value(json_object_get(output, "path"));
    bool ours = reported_path && o->written && strcmp(reported_path, o->written) == 0;
    if (ours)
        json_object_set_new(output, "path",
                            o->published ? json_string(record->plan->pipeline->branches[branch].output) : json_null());
    json_object_set_new(output, "published", json_boolean(ours && o->published));
}

/* An output has every key whatever the pipeline measured: null where nothing was. `written` is what stage `index`
 * reported of it, NULL where nothing was written. */
static json_t *output_of(const struct qp_record *record, int branch, size_t index, json_t *written, int result)
{
    const struct qp_pipeline *p = record->plan->pipeline;
    const struct qp_branch *b = &p->branches[branch];
    json_t *output =
        json_pack("{s:n, s:s, s:n, s:n, s:{s:n, s:n}, s:{s:n, s:n}, s:n, s:n, s:[], s:o}", "path", "scheme",
                  b->scheme->name, "format", "digest", "size_bytes", "original", "quantized", "perplexity", "original",
                  "quantized", "kl_divergence", "top1_agreement", "linears", "gate", gate_of(record, branch, result));
    json_t *parts[] = {reported_upstream(record, index, "metrics"), written};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (json_is_object(parts[i]))
            json_object_update(output, parts[i]);
    json_t *linears = reported_upstream(record, index, "linears"),
           *allocation = reported_upstream(record, index, "allocation");
    if (json_is_array(linears))
        json_object_set(output, "linears", linears);
    if (json_is_object(allocation))
        json_object_set(output, "allocation", allocation);
    if (qp_has_branches(p))
        json_object_set_new(output, "scheme", json_string(b->name));
    set_path(record, branch, output);
    return output;
}

/* What the stages of a branch have written; with a list of schemes, what is known of the branch if they have not. */
static void add_outputs(const struct qp_record *record, int branch, int result, json_t *outputs)
{
    const struct qp_pipeline *p = record->plan->pipeline;
    size_t before = json_array_size(outputs), i;
    json_t *item;
    for (size_t o = 0; o < p->count; o++) {
        size_t at = p->order[o];
        if (p->instances[at].branch == branch || !qp_has_branches(p))
            json_array_foreach(json_object_get(record->stages[at].report, "outputs"), i, item)
                json_array_append_new(outputs, output_of(record, branch, at, item, result));
    }
    size_t last = last_of(p, qp_has_branches(p) ? branch : QP_SHARED);
    if (json_array_size(outputs) == before && (qp_has_branches(p) || reported_upstream(record, last, "metrics")))
        json_array_append_new(outputs, output_of(record, branch, last, NULL, result));
}

static json_t *outputs_of(const struct qp_record *record, int result)
{
    json_t *outputs = json_array();
    for (size_t i = 0; i < record->plan->pipeline->branch_count; i++)
        add_outputs(record, (int)i, result, outputs);
    return outputs;
}

static json_t *stages_of(const struct qp_record *record)
{
    json_t *stages = json_array();
    for (size_t i = 0; i < record->count; i++) {
        const struct qp_stage_record *c = &record->stages[record->plan->pipeline->order[i]];
        json_t *stage = json_pack("{s:s, s:i, s:s, s:s, s:f, s:f, s:f, s:i, s:i, s:i, s:i, s:n}", "name",
                                  c->instance->name, "replica", 0, "host", c->hostname, "device", "cpu", "wall_seconds",
                                  0.0, "busy_seconds", 0.0, "cpu_seconds", 0.0, "peak_rss_bytes", 0,
                                  "peak_anonymous_bytes", 0, "units", 0, "restarts", 0, "work");
        if (json_is_object(c->stage))
            json_object_update_existing(stage, c->stage);
        if (json_is_string(json_object_get(c->report, "compute")))
            json_object_set(stage, "compute", json_object_get(c->report, "compute"));
        json_array_append_new(stages, stage);
    }
    return stages;
}

static void add_counters(json_t *edge, const struct qp_stage_record *c, const char *id, const char *role)
{
    size_t i;
    json_t *counters;
    json_array_foreach(c->edges, i, counters) {
        const char *its_id = json_string_value(json_object_get(counters, "edge"));
        const char *its_role = json_string_value(json_object_get(counters, "role"));
        if (its_id && its_role && strcmp(its_id, id) == 0 && strcmp(its_role, role) == 0)
            json_object_update_existing(edge, counters);
    }
}

static json_t *edges_of(const struct qp_record *record)
{
    const struct qp_pipeline *p = record->plan->pipeline;
    json_t *edges = json_array();
    for (size_t i = 0; i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        json_t *edge = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "from", p->instances[e->from].name,
                                 "to", p->instances[e->to].name, "sent", 0, "received", 0, "acknowledged", 0, "resent",
                                 0, "duplicates", 0, "bytes_inline", 0, "bytes_by_reference", 0);
        if (e->delay)
            json_object_set_new(edge, "delay", json_integer(e->delay));
        add_counters(edge, &record->stages[e->from], e->id, "producer");
        add_counters(edge, &record->stages[e->to], e->id, "consumer");
        json_array_append_new(edges, edge);
    }
    return edges;
}

json_t *qp_report(const struct qp_record *record, const struct qp_args *args, int result, const struct qp_error *err)
{
    json_t *report =
        json_pack("{s:i, s:s, s:o, s:s, s:o, s:o, s:f, s:o, s:o, s:O}", "quantpipe", QP_PIPELINE_VERSION, "status",
                  qp_report_status(result), "command", command_of(args), "version", QUANTPIPE_VERSION, "model",
                  model_of(record), "outputs", outputs_of(record, result), "wall_seconds", qp_now() - record->started,
                  "stages", stages_of(record), "edges", edges_of(record), "warnings", record->warnings);
    qp_report_roofline(report);
    if (result < 0)
        json_object_set_new(report, "error", json_pack("{s:i, s:s}", "code", -result, "message", err->message));
    if (qp_json_not_finite() > 0)
        json_array_append_new(record->warnings,
                              json_pack("{s:s, s:s, s:s}", "code", "metric-not-finite", "where", "report.json",
                                        "message",
                                        "figures of the run itself are not finite; null stands in the report"));
    return report;
}
