/* `quantpipe run` */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/memory.h"
#include "runner/pipeline/prepare.h"
#include "runner/report/progress.h"
#include "runner/report/report.h"
#include "runner/execution/run.h"
#include "runner/execution/signals.h"
#include "runner/execution/supervise.h"
#include "runner/report/timeline.h"
#include "runner/subcommand.h"

static const struct qp_option options[] = {
    {"progress", "MODE", "bar, plain, json or none (default: bar on a terminal, plain lines elsewhere)"}, {0}};

static void announce(struct qp_progress *progress, const struct qp_run *run)
{
    const struct qp_pipeline *p = run->plan->pipeline;
    json_t *stages = json_array();
    for (size_t i = 0; i < p->count; i++)
        json_array_append_new(stages, json_string(p->instances[p->order[i]].name));
    qp_progress_event(progress, "start",
                      json_pack("{s:s, s:s, s:s, s:o, s:s, s:o}", "run", run->id, "model", p->model, "output",
                                p->branches[0].output, "outputs", qp_run_outputs(p), "folder", run->folder, "stages",
                                stages));
}

/* File systems without locks (some network ones) are no reason to refuse a run, but its user may have to take care. */
static void note_locks(struct qp_progress *progress, const struct qp_run *run)
{
    bool unsupported = run->lock.unsupported;
    for (size_t i = 0; i < run->plan->pipeline->branch_count; i++)
        unsupported |= run->outputs[i].lock.unsupported;
    if (unsupported)
        qp_progress_note(progress, "the file system of the output has no locks: another run on the same output is seen "
                                   "by its lock file alone, so do not start two at once");
}

/* A run that fails although outputs stand says so; that a gate withholds one of several is no failure of the others. */
static void add_published(const struct qp_run *run, struct qp_error *err)
{
    qp_auto_json json_t *published = qp_outputs_published(run);
    size_t i;
    json_t *path;
    json_array_foreach(published, i, path)
        qp_fail(err, err->code, "%s%s%s", err->message,
                i ? ", " : "; the output is complete and published: ", json_string_value(path));
}

static bool is_ours(const struct qp_record *record, const char *path)
{
    for (size_t i = 0; i < record->plan->pipeline->branch_count; i++)
        if (record->outputs[i].written && strcmp(record->outputs[i].written, path) == 0)
            return true;
    return false;
}

/* A stage of the user's may have written elsewhere, where the run removes nothing. */
static void add_written(const struct qp_record *record, struct qp_error *err)
{
    size_t i;
    json_t *output;
    for (size_t s = 0; s < record->count; s++)
        json_array_foreach(json_object_get(record->stages[s].report, "outputs"), i, output) {
            const char *path = json_string_value(json_object_get(output, "path"));
            if (path && !is_ours(record, path))
                qp_fail(err, err->code, "%s; stage `%s` reports that it has written %s by itself", err->message,
                        record->stages[s].instance->name, path);
        }
}

/* What a run leaves to show when all of it is closed. */
struct ending {
    json_t *report;
    char *path;
    bool shown; /* as a table */
};

/* Writes report.json whatever came of the run, and tells programs. */
static int conclude(struct qp_supervisor *s, const struct qp_args *args, int result, struct ending *ending,
                    struct qp_error *err)
{
    struct qp_error write_error = {0};
    if (result < 0 && result != QP_ERR_GATE) {
        add_published(s->run, err);
        add_written(&s->record, err);
    }
    json_t *report = ending->report = qp_report(&s->record, args, result, err);
    char *path = ending->path = qp_run_path(s->run, "report.json");
    int r = report && path ? qp_write_json(path, report, &write_error) : qp_fail_memory(&write_error, 0, "report.json");
    if (r < 0 && result == 0) {
        *err = write_error;
        add_published(s->run, err);
        result = r;
    }
    qp_timeline_write(&s->record);
    qp_progress_event(s->progress, "end",
                      json_pack("{s:s, s:i, s:s, s:s?, s:o}", "status", qp_report_status(result), "code", -result,
                                "message", result < 0 ? err->message : "", "report", r == 0 ? path : NULL, "published",
                                qp_outputs_published(s->run)));
    ending->shown = r == 0 && (result == 0 || result == QP_ERR_GATE) && !qp_progress_is_json(s->progress);
    return result;
}

/* The last thing of all: a signal may end it while it waits for who reads it. */
static void show_ending(struct ending *ending)
{
    qp_signals_release();
    if (ending->shown) {
        qp_print_table(ending->report, ending->path);
        fflush(stdout);
    }
    json_decref(ending->report);
    free(ending->path);
}

static int run_stages(struct qp_run *run, struct qp_progress *progress, const struct qp_args *args,
                      struct ending *ending, struct qp_error *err)
{
    struct qp_supervisor supervisor;
    announce(progress, run);
    note_locks(progress, run);
    int r = qp_supervise(run, progress, &supervisor, err);
    r = conclude(&supervisor, args, r, ending, err);
    qp_supervisor_free(&supervisor);
    return r;
}

static int run(const struct qp_args *args, struct qp_error *err)
{
    struct qp_plan plan;
    struct qp_run state;
    struct qp_progress *progress = NULL;
    int r = qp_progress_new(qp_arg(args, "progress"), qp_signals_stop_waits, &progress, err);
    if (r == 0)
        r = qp_prepare(args, true, &plan, err);
    if (r < 0) {
        qp_progress_free(progress);
        return r;
    }
    r = qp_plan_divide_memory(&plan, err);
    if (r < 0) {
        qp_progress_free(progress);
        qp_plan_free(&plan);
        return r;
    }
    struct ending ending = {0};
    qp_signals_block();
    r = qp_run_open(&plan, &state, err);
    if (r == 0) {
        r = run_stages(&state, progress, args, &ending, err);
        qp_run_close(&state);
    }
    qp_progress_free(progress);
    show_ending(&ending);
    qp_plan_free(&plan);
    return r;
}

const struct qp_subcommand qp_subcommand_run = {
    .name = "run",
    .summary = "run a pipeline: quantize a model",
    .usage = "[PIPELINE]",
    .max_arguments = 1,
    .options = {qp_pipeline_options, options},
    .run = run,
};
