#include "runner/outputs.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/publish.h"
#include "runner/run.h"

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
    const char *output = run->plan->pipeline->branches[index].output, *slash = strrchr(output, '/');
    int r = qp_temporary_new(output, &o->temporary, err);
    if (r < 0)
        return r;
    qp_auto_free char *mark = qp_temporary_lock(o->temporary);
    o->written = qp_join(o->temporary, slash ? slash + 1 : output);
    if (!mark || !o->written)
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
        free(o->written);
        *o = (struct qp_output){0};
    }
}

int qp_output_publish(struct qp_run *run, size_t index, struct qp_error *err)
{
    struct qp_output *o = &run->outputs[index];
    if (!o->written || !qp_exists(o->written))
        return 0;
    return qp_publish(o->written, run->plan->pipeline->branches[index].output, &o->published, err);
}

json_t *qp_outputs_published(const struct qp_run *run)
{
    json_t *paths = json_array();
    for (size_t i = 0; paths && i < run->plan->pipeline->branch_count; i++)
        if (run->outputs[i].published)
            json_array_append_new(paths, json_string(run->plan->pipeline->branches[i].output));
    return paths;
}
