#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/run.h"

#define MARKER "run.json"
#define SOCKETS "quantpipe-" /* and six characters of mkdtemp's */
#define SOCKET_PATH_ROOM 40  /* bytes of a socket's path that the folder above may take: 108 in all */

double qp_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

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

static void remove_shared_memory(const char *id)
{
    char pattern[64];
    glob_t found = {0};
    snprintf(pattern, sizeof pattern, "/dev/shm/qp-%s-*", id);
    if (glob(pattern, GLOB_NOSORT, NULL, &found) == 0)
        for (size_t i = 0; i < found.gl_pathc; i++)
            unlink(found.gl_pathv[i]);
    globfree(&found);
}

/* What a branch's output is called before it may appear. */
#define HELD ".held"

char *qp_run_output(const struct qp_run *run, const struct qp_branch *branch)
{
    return run->plan->pipeline->strict ? qp_format("%s" HELD, branch->output) : strdup(branch->output);
}

static void remove_unpublished(const char *output)
{
    static const char *const endings[] = {".partial", HELD, HELD ".partial"};
    struct qp_error ignored;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        qp_auto_free char *path = qp_format("%s%s", output, endings[i]);
        if (path)
            qp_remove_tree(path, &ignored);
    }
}

/* `marker` comes from a file: nothing is removed that has not the form of a run's own. */
static void remove_leftovers(const json_t *marker)
{
    const char *id = json_string_value(json_object_get(marker, "run"));
    const char *sockets = json_string_value(json_object_get(marker, "sockets"));
    const char *name = sockets ? strrchr(sockets, '/') : NULL;
    struct qp_error ignored;
    if (is_run_id(id))
        remove_shared_memory(id);
    if (name && strncmp(name + 1, SOCKETS, strlen(SOCKETS)) == 0)
        qp_remove_tree(sockets, &ignored);
    size_t i;
    json_t *output;
    json_array_foreach(json_object_get(marker, "outputs"), i, output)
        if (json_is_string(output) && json_string_value(output)[0] == '/')
            remove_unpublished(json_string_value(output));
}

/* ---- the folder ---- */

static int refuse_live(const char *folder, struct qp_error *err)
{
    qp_auto_free char *path = qp_join(folder, "lock");
    qp_auto_close int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: a run is going on there; wait for it or stop it, or choose another --output or --run-dir",
                       folder);
    return 0;
}

static int replace_old(const char *folder, struct qp_error *err)
{
    if (!qp_exists(folder) || rmdir(folder) == 0)
        return 0;
    qp_auto_free char *path = qp_join(folder, MARKER);
    qp_auto_json json_t *marker = NULL;
    struct qp_error ignored;
    if (!path)
        return qp_fail_memory(err, 0, folder);
    if (qp_read_json(path, 1 << 20, &marker, &ignored) < 0 || !json_object_get(marker, "quantpipe"))
        return qp_fail(err, QP_ERR_INPUT,
                       "%s: exists and is not the folder of a run; remove it, or choose another --run-dir", folder);
    int r = refuse_live(folder, err);
    if (r < 0)
        return r;
    remove_leftovers(marker);
    return qp_remove_tree(folder, err);
}

static int make_folder(struct qp_run *run, struct qp_error *err)
{
    qp_auto_free char *above = qp_folder_of(run->folder);
    int r = above ? qp_make_folders(above, err) : qp_fail_memory(err, 0, run->folder);
    if (r == 0)
        r = replace_old(run->folder, err);
    if (r < 0)
        return r;
    if (mkdir(run->folder, 0700) < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot make the run folder", run->folder);
    qp_auto_free char *lock = qp_run_path(run, "lock");
    run->lock = lock ? open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (run->lock < 0 || flock(run->lock, LOCK_EX | LOCK_NB) < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot lock the run folder", run->folder);
    return 0;
}

static int make_sockets(struct qp_run *run, struct qp_error *err)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    bool usable = base && base[0] == '/' && strlen(base) < SOCKET_PATH_ROOM && access(base, W_OK | X_OK) == 0;
    run->sockets = qp_format("%s/" SOCKETS "XXXXXX", usable ? base : "/tmp");
    if (!run->sockets)
        return qp_fail_memory(err, 0, "the sockets' folder");
    if (!mkdtemp(run->sockets)) {
        int r = qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot make a folder for sockets", run->sockets);
        free(run->sockets);
        run->sockets = NULL;
        return r;
    }
    return 0;
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

int qp_run_open(const struct qp_plan *plan, struct qp_run *out, struct qp_error *err)
{
    *out = (struct qp_run){.plan = plan, .lock = -1, .started = qp_now()};
    uint64_t random = 0;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return qp_fail_errno(err, QP_ERR_STAGE, "getrandom");
    snprintf(out->id, sizeof out->id, "%016llx", (unsigned long long)random);
    out->folder = strdup(plan->folder);
    int r = out->folder ? make_folder(out, err) : qp_fail_memory(err, 0, "the run folder");
    if (r == 0)
        r = make_sockets(out, err);
    if (r == 0)
        r = write_papers(out, err);
    if (r == 0)
        r = make_parts(out, err);
    if (r < 0) {
        struct qp_error ignored;
        if (out->lock >= 0)
            qp_remove_tree(out->folder, &ignored);
        qp_run_close(out);
    }
    return r;
}

void qp_run_close(struct qp_run *run)
{
    struct qp_error ignored;
    qp_auto_free char *scratch = run->lock >= 0 ? qp_run_path(run, "scratch") : NULL;
    if (scratch)
        qp_remove_tree(scratch, &ignored);
    if (run->sockets) {
        remove_shared_memory(run->id);
        qp_remove_tree(run->sockets, &ignored);
        for (size_t i = 0; i < run->plan->pipeline->branch_count; i++)
            remove_unpublished(run->plan->pipeline->branches[i].output);
    }
    if (run->lock >= 0)
        close(run->lock);
    free(run->sockets);
    free(run->folder);
    *run = (struct qp_run){.lock = -1};
}
