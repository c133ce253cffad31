#include "runner/pipeline/estimates.h"

#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/calibration/data.h"
#include "libstage/network/model_unit.h"
#include "libstage/wire/times.h"
#include "runner/pipeline/graph.h"
#include "runner/process.h"

#define ANSWER_LIMIT ((size_t)1 << 20)

/* What is known of an instance while the plan is walked. */
struct asked {
    struct qp_question question; /* pid 0: not running */
    int64_t windows, length;     /* of its text; 0: none */
    json_t *upstream;            /* names: what comes in its blocks */
    json_t *adds;                /* names: what it adds to them; NULL before it has answered */
};

/* ---- texts ---- */

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

static int count_windows(const struct qp_plan *plan, const json_t *entry, struct asked *asked, struct qp_error *err)
{
    struct qp_windows windows;
    qp_auto_free char *tokenizer = NULL;
    int r = qp_checkpoint_tokenizer(plan->model, &tokenizer, err);
    if (r == 0)
        r = qp_windows_open(entry, tokenizer, plan->model->arch.vocab, &windows, err);
    if (r < 0)
        return r;
    asked->windows = windows.count;
    asked->length = windows.length;
    qp_windows_free(&windows);
    return 0;
}

/* How long a text is, which is worth finding out once. */
static int measure_text(const struct qp_plan *plan, struct asked *list, size_t index, struct qp_error *err)
{
    const struct qp_instance *instances = plan->pipeline->instances;
    const json_t *entry = entry_of(plan, &instances[index]);
    if (!reads_text(plan, &instances[index]))
        return 0;
    for (size_t i = 0; i < index; i++)
        if (list[i].windows > 0 && entry_of(plan, &instances[i]) == entry) {
            list[index].windows = list[i].windows;
            list[index].length = list[i].length;
            return 0;
        }
    return count_windows(plan, entry, &list[index], err);
}

/* ---- what blocks carry ---- */

static void add_names(json_t *list, const json_t *names)
{
    size_t i, j;
    json_t *name, *known;
    json_array_foreach(names, i, name) {
        bool there = !json_is_string(name);
        json_array_foreach(list, j, known)
            there |= json_equal(known, name);
        if (!there)
            json_array_append(list, name);
    }
}

static const json_t *provided_by(const struct qp_instance *in, const char *output)
{
    return json_object_get(qp_named(qp_ports_of(in, "outputs"), "name", output), "provides");
}

/* Whether all that an instance reads from has answered; then what its blocks bring is known. */
static bool is_ready(const struct qp_pipeline *p, struct asked *list, size_t index)
{
    for (size_t e = 0; e < p->edge_count; e++)
        if (p->edges[e].to == index && !p->edges[e].delay && !list[p->edges[e].from].adds)
            return false;
    for (size_t e = 0; e < p->edge_count; e++) {
        const struct qp_edge *edge = &p->edges[e];
        if (edge->to != index || edge->delay)
            continue;
        add_names(list[index].upstream, list[edge->from].upstream);
        add_names(list[index].upstream, list[edge->from].adds);
        add_names(list[index].upstream, provided_by(&p->instances[edge->from], edge->output));
    }
    return true;
}

static bool has_feedback(const struct qp_pipeline *p, size_t index)
{
    for (size_t e = 0; e < p->edge_count; e++)
        if (p->edges[e].to == index && p->edges[e].delay)
            return true;
    return false;
}

/* ---- asking ---- */

/* The attributes that the model unit will have when it comes to this instance: with the scheme of its branch, of the
 * first where all share it. A new reference. */
static int model_of(const struct qp_plan *plan, const struct qp_instance *in, json_t **out, struct qp_error *err)
{
    const struct qp_branch *b = &plan->pipeline->branches[in->branch == QP_SHARED ? 0 : in->branch];
    struct qp_unit *unit;
    int r = qp_checkpoint_model(plan->model, b->scheme, &unit, err);
    if (r < 0)
        return r;
    *out = json_incref(unit->attrs);
    qp_unit_free(unit);
    return 0;
}

static int question_text(const struct qp_plan *plan, const struct asked *asked, size_t index, char **out,
                         struct qp_error *err)
{
    const struct qp_pipeline *p = plan->pipeline;
    const struct qp_instance *in = &p->instances[index];
    json_t *model;
    int r = model_of(plan, in, &model, err);
    if (r < 0)
        return r;
    json_t *text = asked->windows > 0 ? json_pack("{s:I, s:I}", "windows", (json_int_t)asked->windows, "length",
                                                  (json_int_t)asked->length)
                                      : json_null();
    qp_auto_json json_t *question =
        json_pack("{s:i, s:o, s:o, s:O, s:O, s:o, s:b}", "quantpipe", QP_PIPELINE_VERSION, "model", model, "params",
                  qp_params_of(in), "wants", in->wants, "upstream", asked->upstream, "text", text, "feedback",
                  has_feedback(p, index));
    *out = question ? json_dumps(question, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    return *out ? 0 : qp_fail_memory(err, 0, "a question");
}

static int ask(const struct qp_plan *plan, struct asked *asked, size_t index, struct qp_error *err)
{
    const struct qp_instance *in = &plan->pipeline->instances[index];
    qp_auto_free char *text = NULL;
    size_t count = 0;
    while (in->command[count])
        count++;
    qp_auto_free char **argv = calloc(count + 2, sizeof *argv);
    char option[] = "--estimate";
    if (!argv)
        return qp_fail_memory(err, count, in->name);
    memcpy(argv, in->command, count * sizeof *argv);
    argv[count] = option;
    int r = question_text(plan, asked, index, &text, err);
    if (r == 0)
        r = qp_process_ask(argv, in->own ? plan->pipeline->document->folder : NULL, text, &asked->question, err);
    return r < 0 ? qp_wrap(err, "stage `%s`: --estimate", in->name) : 0;
}

static int take_answer(const struct qp_plan *plan, struct asked *asked, size_t index, struct qp_estimate *out,
                       struct qp_error *err)
{
    const struct qp_instance *in = &plan->pipeline->instances[index];
    qp_auto_free char *text = NULL;
    json_error_t at;
    int r = qp_process_answer(&asked->question, QP_TIMEOUT_SECONDS * 1000, ANSWER_LIMIT, &text, err);
    qp_auto_json json_t *answer = r == 0 ? json_loads(text, JSON_REJECT_DUPLICATES, &at) : NULL;
    if (r == 0 && !json_is_object(answer))
        r = qp_fail(err, QP_ERR_STAGE, "expected a JSON object (schemas/estimate.schema.json); found %.60s", text);
    if (r < 0)
        return qp_wrap(err, "stage `%s`: --estimate", in->name);
    qp_estimate_from_json(answer, out);
    add_names(asked->adds, json_object_get(answer, "provides"));
    return 0;
}

/* Asks all that are ready, and has all of their answers. *some: whether there were any. */
static int ask_ready(const struct qp_plan *plan, struct asked *list, struct qp_estimate *out, bool *some,
                     struct qp_error *err)
{
    const struct qp_pipeline *p = plan->pipeline;
    bool ready[QP_MAX_INSTANCES] = {false};
    int r = 0;
    *some = false;
    for (size_t i = 0; i < p->count; i++)
        *some |= ready[i] = !list[i].adds && is_ready(p, list, i);
    for (size_t i = 0; r == 0 && i < p->count; i++)
        if (ready[i] && json_is_true(json_object_get(p->instances[i].descriptor, "estimates")))
            r = ask(plan, &list[i], i, err);
    for (size_t i = 0; r == 0 && i < p->count; i++) {
        if (!ready[i])
            continue;
        list[i].adds = json_copy(p->instances[i].wants);
        if (!list[i].adds)
            r = qp_fail_memory(err, 0, "an answer");
        else if (list[i].question.pid > 0)
            r = take_answer(plan, &list[i], i, &out[i], err);
    }
    return r;
}

int qp_plan_estimates(const struct qp_plan *plan, struct qp_estimate *out, struct qp_error *err)
{
    struct asked list[QP_MAX_INSTANCES] = {0};
    size_t count = plan->pipeline->count;
    bool some = true;
    int r = 0;
    for (size_t i = 0; i < count; i++) {
        out[i] = (struct qp_estimate){0};
        list[i].upstream = json_array();
    }
    for (size_t i = 0; r == 0 && i < count; i++)
        r = measure_text(plan, list, i, err);
    while (r == 0 && some)
        r = ask_ready(plan, list, out, &some, err);
    for (size_t i = 0; i < count; i++) {
        qp_process_forget(&list[i].question);
        json_decref(list[i].upstream);
        json_decref(list[i].adds);
    }
    return r;
}
