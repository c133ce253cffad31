#include "runner/execution/outputs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/publish.h"
#include "runner/execution/run.h"

static int lock_output(struct qp_run *run, size_t index, struct qp_error *err)
{
    const char *output = run->plan->pipeline->branches[index].output;
    qp_auto_free char *folder = qp_folder_of(output);
    qp_auto_free char *path = qp_lock_path(output);
    if (!folder || !path)
        return qp_fail_memory(err, strlen(output), "a path");
    int r = qp_make_folders(folder, err);
    if (r == 0)
        r = qp_lock_take(path, run->id, &run->outputs[index].lock, err);
    if (r < 0)
        return qp_wrap(err, "the output %s", output);
    if (qp_exists(output))
        return qp_fail(err, QP_ERR_INPUT,
                       "the output %s exists; remove it (rm -r), or choose another one with --output", output);
    qp_temporary_clean(output);
    return 0;
}

/* The output that comes next after `previous` by name, -1 when there is none: two runs on the same outputs lock them in
 * the same order, so that one of them gets them all. */
static int next_output(const struct qp_pipeline *p, const char *previous)
{
    int next = -1;
    for (size_t i = 0; i < p->branch_count; i++) {
        const char *output = p->branches[i].output;
        if ((!previous || strcmp(output, previous) > 0) && (next < 0 || strcmp(output, p->branches[next].output) < 0))
            next = (int)i;
    }
    return next;
}

int qp_outputs_lock(struct qp_run *run, struct qp_error *err)
{
    const struct qp_pipeline *p = run->plan->pipeline;
    int r = 0;
    for (int i = next_output(p, NULL); r == 0 && i >= 0; i = next_output(p, p->branches[i].output))
        r = lock_output(run, (size_t)i, err);
    return r;
}

static int open_output(struct qp_run *run, size_t index, struct qp_error *err)
{
    struct qp_output *o = &run->outputs[index];
    char **written = &run->output_records[index].written;
    const char *output = run->plan->pipeline->branches[index].output, *slash = strrchr(output, '/');
    int r = qp_temporary_new(output, &o->temporary, err);
    if (r < 0)
        return r;
    qp_auto_free char *mark = qp_temporary_lock(o->temporary);
    *written = qp_join(o->temporary, slash ? slash + 1 : output);
    if (!mark || !*written)
        return qp_fail_memory(err, strlen(output), "a path");
    return qp_lock_take(mark, run->id, &o->mark, err);
}

int qp_outputs_open(struct qp_run *run, struct qp_error *err)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < run->plan->pipeline->branch_count; i++)
        r = open_output(run, i, err);
    return r;
}

void qp_outputs_close(struct qp_run *run)
{
    for (size_t i = 0; i < run->plan->pipeline->branch_count; i++) {
        struct qp_output *o = &run->outputs[i];
        if (o->temporary)
            qp_remove_tree(o->temporary, NULL);
        qp_lock_release(&o->mark);
        qp_lock_release(&o->lock);
        free(o->temporary);
        free(run->output_records[i].written);
        *o = (struct qp_output){0};
        run->output_records[i] = (struct qp_output_record){0};
    }
}

/* Gives what the stages of branch `index` have written its name, unless something has that name meanwhile; a branch
 * that wrote nothing has nothing to name. */
static int publish_output(struct qp_run *run, size_t index, struct qp_error *err)
{
    struct qp_output_record *o = &run->output_records[index];
    if (!o->written || !qp_exists(o->written))
        return 0;
    return qp_publish(o->written, run->plan->pipeline->branches[index].output, &o->published, err);
}

int qp_outputs_publish(struct qp_run *run, const struct qp_record *record, struct qp_error *err)
{
    const struct qp_pipeline *p = record->plan->pipeline;
    char text[2 * QP_ERROR_SIZE] = "", why[QP_ERROR_SIZE];
    int r = 0;
    for (size_t i = 0; r == 0 && i < p->branch_count; i++) {
        size_t used = strlen(text);
        if (!qp_branch_refused(record, (int)i, why, sizeof why))
            r = qp_branch_differs(record, (int)i, why, sizeof why) ? qp_fail(err, QP_ERR_STAGE, "%s", why)
                                                                   : publish_output(run, i, err);
        else if (qp_has_branches(p))
            snprintf(text + used, sizeof text - used, "%sscheme `%s`: %s", used ? "\n" : "", p->branches[i].name, why);
        else
            snprintf(text, sizeof text, "%s", why);
    }
    return r < 0 || !text[0] ? r : qp_fail(err, QP_ERR_GATE, "%s", text);
}

json_t *qp_outputs_published(const struct qp_run *run)
{
    json_t *paths = json_array();
    for (size_t i = 0; paths && i < run->plan->pipeline->branch_count; i++)
        if (run->output_records[i].published)
            json_array_append_new(paths, json_string(run->plan->pipeline->branches[i].output));
    return paths;
}
