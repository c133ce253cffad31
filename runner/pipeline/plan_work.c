/* The work of a plan's stages: what each formula (costs.h) needs to know, found in the pipeline. */
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/calibration/data.h"
#include "runner/pipeline/costs.h"
#include "runner/pipeline/plan_work.h"
#include "runner/pipeline/graph.h"

static const json_t *entry_of(const struct qp_plan *plan, const struct qp_instance *in)
{
    const char *name = json_string_value(json_object_get(in->descriptor, "data"));
    return name ? json_object_get(plan->pipeline->data, name) : NULL;
}

/* A stage that collects for others reads text only when it is asked to. */
static bool reads_text(const struct qp_plan *plan, const struct qp_instance *in)
{
    bool collects = json_array_size(json_object_get(in->descriptor, "collects")) > 0;
    return json_is_object(entry_of(plan, in)) && (!collects || json_array_size(in->wants) > 0);
}

bool qp_plan_reads_text(const struct qp_plan *plan)
{
    for (size_t i = 0; i < plan->pipeline->count; i++)
        if (reads_text(plan, &plan->pipeline->instances[i]))
            return true;
    return false;
}

static int count_windows(const struct qp_plan *plan, const json_t *entry, struct qp_task *task, struct qp_error *err)
{
    struct qp_windows windows;
    qp_auto_free char *tokenizer = NULL;
    int r = qp_checkpoint_tokenizer(plan->model, &tokenizer, err);
    if (r == 0)
        r = qp_windows_open(entry, tokenizer, plan->model->arch.vocab, &windows, err);
    if (r < 0)
        return r;
    task->windows = windows.count;
    task->length = windows.length;
    qp_windows_free(&windows);
    return 0;
}

/* The stage upstream of `index`, itself included, that `finds` what is looked for. */
static bool upstream(const struct qp_pipeline *p, size_t index, bool (*finds)(const struct qp_instance *))
{
    if (finds(&p->instances[index]))
        return true;
    for (size_t e = 0; e < p->edge_count; e++)
        if (p->edges[e].to == index && !p->edges[e].delay && upstream(p, p->edges[e].from, finds))
            return true;
    return false;
}

static bool makes_moments(const struct qp_instance *in)
{
    size_t i;
    json_t *what;
    json_array_foreach(in->wants, i, what)
        if (strcmp(json_string_value(what), "second_moment") == 0)
            return true;
    return false;
}

static bool is_param(const struct qp_instance *in, const char *name, const char *value)
{
    const char *text = json_string_value(json_object_get(in->params, name));
    return text && strcmp(text, value) == 0;
}

/* Stage search, unless it does nothing or leaves ranges as they are. */
static bool chooses_scales(const struct qp_instance *in)
{
    const char *name = qp_text_of(in->descriptor, "name");
    const json_t *method = json_object_get(in->params, "method");
    if (!name || strcmp(name, "search") != 0 || !method || is_param(in, "method", "none"))
        return false;
    return is_param(in, "method", "clip") || !json_is_false(json_object_get(in->params, "clip"));
}

/* Stage load with true_sequential. */
static bool takes_turns(const struct qp_instance *in)
{
    return json_is_true(json_object_get(in->params, "true_sequential"));
}

static bool has_feedback(const struct qp_pipeline *p, size_t index)
{
    for (size_t e = 0; e < p->edge_count; e++)
        if (p->edges[e].to == index && p->edges[e].delay)
            return true;
    return false;
}

static struct qp_task task_of(const struct qp_plan *plan, size_t index)
{
    const struct qp_pipeline *p = plan->pipeline;
    const struct qp_instance *in = &p->instances[index];
    return (struct qp_task){.arch = &plan->model->arch,
                            .scheme = p->branches[in->branch == QP_SHARED ? 0 : in->branch].scheme,
                            .instance = in,
                            .moments = upstream(p, index, makes_moments),
                            .scales = upstream(p, index, chooses_scales),
                            .feedback = has_feedback(p, index),
                            .turns = upstream(p, index, takes_turns),
                            .kernels = qp_kernels_open("cpu")};
}

/* How long a text is, which is worth finding out once. */
static int measure_text(const struct qp_plan *plan, struct qp_task *tasks, size_t index, struct qp_error *err)
{
    const struct qp_instance *in = tasks[index].instance;
    if (!reads_text(plan, in))
        return 0;
    for (size_t i = 0; i < index; i++)
        if (tasks[i].windows > 0 && entry_of(plan, tasks[i].instance) == entry_of(plan, in)) {
            tasks[index].windows = tasks[i].windows;
            tasks[index].length = tasks[i].length;
            return 0;
        }
    return count_windows(plan, entry_of(plan, in), &tasks[index], err);
}

int qp_plan_work(const struct qp_plan *plan, struct qp_work *work, bool *known, struct qp_error *err)
{
    struct qp_task tasks[QP_MAX_INSTANCES];
    for (size_t i = 0; i < plan->pipeline->count; i++) {
        tasks[i] = task_of(plan, i);
        int r = measure_text(plan, tasks, i, err);
        if (r < 0)
            return r;
        known[i] = qp_task_work(&tasks[i], &work[i]);
    }
    return 0;
}
