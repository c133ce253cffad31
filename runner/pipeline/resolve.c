/* From `use` and `run` to executables and their descriptors. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "runner/pipeline/descriptor.h"
#include "runner/pipeline/pipeline.h"

static int unknown_builtin(const struct qp_pipeline *p, const struct qp_instance *in, struct qp_error *err)
{
    qp_auto_json json_t *list = NULL;
    int r = qp_builtin_names(&list, err);
    if (r < 0)
        return r;
    const char *names[256];
    size_t i, count = 0;
    json_t *name;
    json_array_foreach(list, i, name)
        if (count < sizeof names / sizeof *names)
            names[count++] = json_string_value(name);
    const char *near = qp_nearest(in->use, names, count);
    qp_auto_free char *path = qp_format("%s.use", in->path);
    if (!path)
        return qp_fail_memory(err, 0, in->name);
    return qp_document_fail(
        p->document, qp_document_get(p->document, path) ? path : in->path, err,
        "there is no built-in stage `%s`%s%s%s; `quantpipe stages` lists them; a stage of your own has `run: COMMAND`",
        in->use, near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
}

static int find_builtin(const struct qp_pipeline *p, struct qp_instance *in, struct qp_error *err)
{
    qp_auto_free char *folder = NULL;
    int r = qp_builtin_folder(&folder, err);
    if (r < 0)
        return r;
    qp_auto_free char *path = qp_join(folder, in->use);
    if (!path)
        return qp_fail_memory(err, 0, in->use);
    if (access(path, X_OK) < 0 || qp_is_folder(path))
        return unknown_builtin(p, in, err);
    in->command = calloc(2, sizeof *in->command);
    if (!in->command)
        return qp_fail_memory(err, 0, in->use);
    in->command[0] = path;
    path = NULL;
    return 0;
}

/* The first executable `name` in the folders of PATH, new memory, or NULL. */
static char *search_path(const char *name)
{
    const char *path = getenv("PATH");
    for (const char *p = path ? path : "/usr/local/bin:/usr/bin:/bin"; *p;) {
        size_t n = strcspn(p, ":");
        char *file = n ? qp_format("%.*s/%s", (int)n, p, name) : NULL;
        if (file && access(file, X_OK) == 0 && !qp_is_folder(file))
            return file;
        free(file);
        p += n + (p[n] == ':');
    }
    return NULL;
}

static int find_own(const struct qp_pipeline *p, struct qp_instance *in, struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s.run", in->path);
    char *found = NULL;
    int r = 0;
    if (!path)
        return qp_fail_memory(err, 0, in->name);
    if (strchr(in->command[0], '/'))
        r = qp_document_path(p->document, path, in->command[0], &found, err);
    else
        found = search_path(in->command[0]);
    if (r == 0 && (!found || access(found, X_OK) < 0 || qp_is_folder(found)))
        r = qp_document_fail(p->document, path, err, "%s: %s", found ? found : in->command[0],
                             !found             ? "there is no such executable in PATH"
                             : qp_exists(found) ? "not an executable; make it one (chmod +x), or name its interpreter"
                                                : "there is no such file");
    if (r < 0) {
        free(found);
        return r;
    }
    free(in->command[0]);
    in->command[0] = found;
    return 0;
}

int qp_stages_describe(struct qp_pipeline *pipeline, struct qp_error *err)
{
    for (size_t i = 0; i < pipeline->count; i++) {
        struct qp_instance *in = &pipeline->instances[i];
        int r = in->own ? find_own(pipeline, in, err) : find_builtin(pipeline, in, err);
        if (r < 0)
            return r;
        const char *folder = in->own ? pipeline->document->folder : NULL;
        r = in->own ? qp_descriptor_read(in->command, folder, pipeline->timeout, &in->descriptor, err)
                    : qp_builtin_descriptor(in->command[0], &in->descriptor, err);
        if (r < 0)
            return qp_wrap(err, "%s: stage `%s`", qp_document_key_at(pipeline->document, in->path), in->name);
        r = qp_params_check(pipeline, in, err);
        if (r < 0)
            return r;
    }
    return 0;
}
