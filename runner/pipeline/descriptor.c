#include "runner/pipeline/descriptor.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/schema.h"
#include "libstage/wire/times.h"
#include "runner/pipeline/schemas.h"
#include "runner/process.h"

#define DESCRIBE_LIMIT ((size_t)1 << 20)
#define MAX_WORDS 256

int qp_builtin_folder(char **out, struct qp_error *err)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "/proc/self/exe: cannot find where this program is");
    path[n] = '\0';
    qp_auto_free char *folder = qp_folder_of(path);
    qp_auto_free char *relative = folder ? qp_format("%s/../libexec/quantpipe", folder) : NULL;
    if (!relative)
        return qp_fail_memory(err, (size_t)n, path);
    *out = realpath(relative, NULL);
    return *out ? 0 : qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot find the built-in stages", relative);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int name_list(const char *folder, char **names, int count, json_t **out, struct qp_error *err)
{
    qp_auto_json json_t *list = json_array();
    qsort(names, (size_t)count, sizeof *names, compare_names);
    for (int i = 0; i < count; i++) {
        qp_auto_free char *path = qp_join(folder, names[i]);
        if (path && !qp_is_folder(path) && access(path, X_OK) == 0)
            json_array_append_new(list, json_string(names[i]));
    }
    if (!list)
        return qp_fail_memory(err, 0, "names of stages");
    *out = json_incref(list);
    return 0;
}

int qp_builtin_names(json_t **out, struct qp_error *err)
{
    qp_auto_free char *folder = NULL;
    int r = qp_builtin_folder(&folder, err);
    DIR *dir = r == 0 ? opendir(folder) : NULL;
    if (r == 0 && !dir)
        r = qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot list the built-in stages", folder);
    char *names[MAX_WORDS];
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir)) && count < MAX_WORDS;)
        if (entry->d_name[0] != '.' && (names[count] = strdup(entry->d_name)))
            count++;
    if (dir)
        closedir(dir);
    if (r == 0)
        r = name_list(folder, names, count, out, err);
    while (count > 0)
        free(names[--count]);
    return r;
}

int qp_descriptor_check(const json_t *descriptor, struct qp_error *err)
{
    qp_auto_json json_t *schema = json_loads(qp_stage_schema, 0, NULL);
    if (!schema)
        return qp_fail_memory(err, 0, "the schema of descriptors");
    int r = qp_schema_check(schema, NULL, descriptor, "descriptor", err);
    return r < 0 ? qp_fail(err, r, "%s; see schemas/stage.schema.json", err->message) : 0;
}

static int describe(char *const *argv, const char *folder, int timeout, json_t **out, struct qp_error *err)
{
    qp_auto_free char *text = NULL;
    int r = qp_process_output(argv, folder, timeout * 1000, DESCRIBE_LIMIT, &text, err);
    if (r < 0)
        return r;
    json_error_t at;
    qp_auto_json json_t *value = json_loads(text, JSON_REJECT_DUPLICATES, &at);
    if (!value)
        return qp_fail(err, QP_ERR_INPUT, "wrote no valid JSON (line %d, column %d: %s)", at.line, at.column, at.text);
    r = qp_descriptor_check(value, err);
    if (r == 0)
        *out = json_incref(value);
    return r;
}

int qp_descriptor_read(char *const *command, const char *folder, int timeout, json_t **out, struct qp_error *err)
{
    size_t count = 0;
    while (command[count])
        count++;
    qp_auto_free char **argv = calloc(count + 2, sizeof *argv);
    if (!argv)
        return qp_fail_memory(err, count, command[0]);
    memcpy(argv, command, count * sizeof *argv);
    char last[] = "--describe";
    argv[count] = last;
    int r = describe(argv, folder, timeout, out, err);
    return r < 0 ? qp_wrap(err, "%s --describe", command[0]) : 0;
}

/* Whether a file is there and no older than another one. */
static bool is_fresh(const char *path, const char *than)
{
    struct stat file, other;
    if (stat(path, &file) < 0 || stat(than, &other) < 0)
        return false;
    return file.st_mtim.tv_sec > other.st_mtim.tv_sec ||
           (file.st_mtim.tv_sec == other.st_mtim.tv_sec && file.st_mtim.tv_nsec >= other.st_mtim.tv_nsec);
}

int qp_builtin_descriptor(const char *path, json_t **out, struct qp_error *err)
{
    qp_auto_free char *saved = qp_format("%s.json", path);
    qp_auto_free char *copy = strdup(path);
    qp_auto_json json_t *value = NULL;
    struct qp_error unused;
    if (!saved || !copy)
        return qp_fail_memory(err, strlen(path), "a path");
    if (is_fresh(saved, path) && qp_read_json(saved, DESCRIBE_LIMIT, &value, &unused) == 0 &&
        qp_descriptor_check(value, &unused) == 0) {
        *out = json_incref(value);
        return 0;
    }
    return qp_descriptor_read((char *[]){copy, NULL}, NULL, QP_TIMEOUT_SECONDS, out, err);
}
