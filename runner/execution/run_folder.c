#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/publish.h"
#include "runner/execution/run.h"
#include "runner/machine.h"

#define MARKER "run.json"
#define SOCKETS "quantpipe-" /* and twelve digits of the run's id */
#define SOCKET_PATH_SPACE 34 /* bytes of a socket's path that the folder above may take: 108 in all */

char *qp_run_path(const struct qp_run *run, const char *format, ...)
{
    va_list args;
    char *name = NULL;
    va_start(args, format);
    int n = vasprintf(&name, format, args);
    va_end(args);
    char *path = n < 0 ? NULL : qp_join(run->folder, name);
    if (n >= 0)
        free(name);
    return path;
}

/* ---- what a run leaves ---- */

static bool is_run_id(const char *id)
{
    return id && strlen(id) == 16 && strspn(id, "0123456789abcdef") == 16;
}

void qp_remove_shared_memory(const char *id)
{
    char pattern[64];
    glob_t found = {0};
    snprintf(pattern, sizeof pattern, "/dev/shm/qp-%s-*", id);
    if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++)
            unlink(found.gl_pathv[i]);
    globfree(&found);
}

/* Unless another run works on that output now. */
static void clean_output(const char *output, const char *id)
{
    struct qp_lock lock;
    struct qp_error ignored;
    qp_auto_free char *path = qp_lock_path(output);
    if (!path || qp_lock_take(path, is_run_id(id) ? id : "", &lock, &ignored) < 0)
        return;
    qp_temporary_clean(output);
    qp_lock_release(&lock);
}

/* `marker` comes from a file: nothing is removed that has not the form of a run's own. */
static void remove_leftovers(const json_t *marker)
{
    const char *id = json_string_value(json_object_get(marker, "run"));
    const char *sockets = json_string_value(json_object_get(marker, "sockets"));
    const char *name = sockets ? strrchr(sockets, '/') : NULL;
    struct qp_error ignored;
    if (is_run_id(id))
        qp_remove_shared_memory(id);
    if (name && strncmp(name + 1, SOCKETS, strlen(SOCKETS)) == 0)
        qp_remove_tree(sockets, &ignored);
    size_t i;
    json_t *output;
    json_array_foreach(json_object_get(marker, "outputs"), i, output)
        if (json_is_string(output) && json_string_value(output)[0] == '/')
            clean_output(json_string_value(output), id);
}

/* ---- the folder ---- */

/* Whether a file is one that runs write, or what is left of writing it (qp_write_file). */
static bool is_run_file(const char *name)
{
    static const char *const files[] = {MARKER, "pipeline.json", "report.json", "timeline.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        size_t n = strlen(files[i]);
        if (strncmp(name, files[i], n) == 0 && (!name[n] || strncmp(name + n, ".tmp", 4) == 0))
            return true;
    }
    return false;
}

static bool is_log(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".log") == 0;
}

/* Whether a folder holds nothing but files whose names are `ours`; removes these files if `clear`. */
static bool holds_only(const char *folder, bool (*ours)(const char *name), bool clear)
{
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    bool all = dir != NULL;
    while (dir && (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        all &= ours(entry->d_name) && (!clear || unlinkat(dirfd(dir), entry->d_name, 0) == 0);
    }
    if (dir)
        closedir(dir);
    return all;
}

/* Removes from a run folder what runs make there, and leaves what somebody else put beside it. */
static void clear_folder(const char *folder)
{
    struct qp_error ignored;
    qp_auto_free char *scratch = qp_join(folder, "scratch"), *logs = qp_join(folder, "logs");
    if (scratch)
        qp_remove_tree(scratch, &ignored);
    if (logs && holds_only(logs, is_log, true))
        rmdir(logs);
    holds_only(folder, is_run_file, true);
}

/* What a run that was killed before its marker stood has begun to write. */
static bool is_marker_part(const char *name)
{
    return strncmp(name, MARKER ".tmp", strlen(MARKER ".tmp")) == 0;
}

/* Takes a folder that is there: an empty one, or a run's. The lock is held, so that run is over. */
static int take_folder(const char *folder, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(folder, MARKER);
    qp_auto_json json_t *marker = NULL;
    struct qp_error ignored;
    if (!path)
        return qp_fail_memory(err, 0, folder);
    if (holds_only(folder, is_marker_part, false) && holds_only(folder, is_marker_part, true))
        return 0;
    if (qp_read_json(path, 1 << 20, &marker, &ignored) < 0 || !json_object_get(marker, "quantpipe"))
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: exists and is not the folder of a run; remove it, or choose another --run-dir", folder);
    remove_leftovers(marker);
    clear_folder(folder);
    return 0;
}

static int make_folder(struct qp_run *run, struct qp_error *err)
{
    qp_auto_free char *above = qp_folder_of(run->folder), *lock = qp_lock_path(run->folder);
    int r = above && lock ? qp_make_folders(above, err) : qp_fail_memory(err, 0, run->folder);
    if (r == 0)
        r = qp_lock_take(lock, run->id, &run->lock, err);
    if (r < 0)
        return qp_wrap(err, "the run folder %s", run->folder);
    run->made = mkdir(run->folder, 0700) == 0;
    if (run->made)
        return 0;
    if (errno == EEXIST)
        return take_folder(run->folder, err);
    return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot make the run folder", run->folder);
}

/* Its name is known before it is there, so that run.json, which is written first, names it to later runs. */
static int name_sockets(struct qp_run *run, struct qp_error *err)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    bool usable = base && base[0] == '/' && strlen(base) < SOCKET_PATH_SPACE && access(base, W_OK | X_OK) == 0;
    run->sockets = qp_format("%s/" SOCKETS "%.12s", usable ? base : "/tmp", run->id);
    return run->sockets ? 0 : qp_fail_memory(err, 0, "the sockets' folder");
}

static int make_sockets(struct qp_run *run, struct qp_error *err)
{
    if (mkdir(run->sockets, 0700) == 0)
        return 0;
    int r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot make a folder for sockets", run->sockets);
    free(run->sockets); /* it is somebody else's */
    run->sockets = NULL;
    return r;
}

static int make_parts(const struct qp_run *run, struct qp_error *err)
{
    const struct qp_pipeline *p = run->plan->pipeline;
    qp_auto_free char *logs = qp_run_path(run, "logs");
    int r = logs ? qp_make_folders(logs, err) : qp_fail_memory(err, 0, "a path");
    for (size_t i = 0; r == 0 && i < p->count; i++) {
        qp_auto_free char *scratch = qp_run_path(run, "scratch/%s.0", p->instances[i].name);
        r = scratch ? qp_make_folders(scratch, err) : qp_fail_memory(err, 0, "a path");
    }
    return r;
}

json_t *qp_run_outputs(const struct qp_pipeline *pipeline)
{
    json_t *outputs = json_array();
    for (size_t i = 0; i < pipeline->branch_count; i++)
        json_array_append_new(outputs, json_string(pipeline->branches[i].output));
    return outputs;
}

static int write_papers(const struct qp_run *run, struct qp_error *err)
{
    const struct qp_pipeline *p = run->plan->pipeline;
    qp_auto_free char *marker_path = qp_run_path(run, MARKER), *resolved_path = qp_run_path(run, "pipeline.json");
    qp_auto_json json_t *marker =
        json_pack("{s:i, s:s, s:i, s:s, s:o}", "quantpipe", QP_PIPELINE_VERSION, "run", run->id, "pid", (int)getpid(),
                  "sockets", run->sockets, "outputs", qp_run_outputs(p));
    qp_auto_json json_t *resolved = qp_pipeline_resolved(p);
    if (!marker_path || !resolved_path || !marker || !resolved)
        return qp_fail_memory(err, 0, "the run's papers");
    int r = qp_write_json(marker_path, marker, err);
    return r < 0 ? r : qp_write_json(resolved_path, resolved, err);
}

static int open_parts(struct qp_run *run, struct qp_error *err)
{
    int r = qp_outputs_open(run, err);
    if (r == 0)
        r = name_sockets(run, err);
    if (r == 0)
        r = write_papers(run, err);
    if (r == 0)
        r = make_sockets(run, err);
    if (r == 0)
        r = make_parts(run, err);
    if (r < 0) {
        clear_folder(run->folder);
        if (run->made)
            rmdir(run->folder);
    }
    return r;
}

int qp_run_open(const struct qp_plan *plan, struct qp_run *out, struct qp_error *err)
{
    *out = (struct qp_run){.plan = plan, .started = qp_now()};
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return qp_fail_errno(err, QP_ERR_STAGE, "getrandom");
    snprintf(out->id, sizeof out->id, "%016llx", (unsigned long long)random);
    out->folder = strdup(plan->folder);
    int r = out->folder ? qp_outputs_lock(out, err) : qp_fail_memory(err, 0, "the run folder");
    if (r == 0)
        r = make_folder(out, err);
    if (r == 0)
        r = open_parts(out, err);
    if (r < 0)
        qp_run_close(out);
    return r;
}

void qp_run_close(struct qp_run *run)
{
    struct qp_error ignored;
    if (run->sockets) {
        qp_auto_free char *scratch = qp_run_path(run, "scratch");
        if (scratch)
            qp_remove_tree(scratch, &ignored);
        qp_remove_shared_memory(run->id);
        qp_remove_tree(run->sockets, &ignored);
    }
    qp_lock_release(&run->lock);
    qp_outputs_close(run);
    free(run->sockets);
    free(run->folder);
    *run = (struct qp_run){0};
}
