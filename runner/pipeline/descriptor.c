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
#include "libstage/wire/times.h"
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

/* ---- the form of a descriptor ---- */

static bool is_text(const json_t *value)
{
    return json_is_string(value) && json_string_length(value) > 0;
}

static bool is_absent(const json_t *value)
{
    return !value || json_is_null(value);
}

static bool is_texts(const json_t *value)
{
    if (is_absent(value))
        return true;
    size_t i;
    json_t *text;
    json_array_foreach(value, i, text)
        if (!is_text(text))
            return false;
    return json_is_array(value);
}

static bool is_param(const json_t *param)
{
    static const char *const types[] = {"bool", "int", "float", "string", "percent"};
    const char *type = json_string_value(json_object_get(param, "type"));
    bool known = false;
    for (size_t i = 0; type && i < sizeof types / sizeof *types; i++)
        known |= strcmp(type, types[i]) == 0;
    const json_t *min = json_object_get(param, "min"), *max = json_object_get(param, "max");
    const json_t *was = json_object_get(param, "was");
    return known && is_text(json_object_get(param, "name")) && (is_absent(was) || is_text(was)) &&
           is_texts(json_object_get(param, "choices")) && (is_absent(min) || json_is_number(min)) &&
           (is_absent(max) || json_is_number(max));
}

static bool is_port(const json_t *port)
{
    const json_t *optional = json_object_get(port, "optional"), *feedback = json_object_get(port, "feedback");
    const json_t *was = json_object_get(port, "was");
    return is_text(json_object_get(port, "name")) && (is_absent(was) || is_text(was)) &&
           is_texts(json_object_get(port, "needs")) && is_texts(json_object_get(port, "provides")) &&
           is_texts(json_object_get(port, "collects")) && (!optional || json_is_boolean(optional)) &&
           (!feedback || json_is_boolean(feedback));
}

static bool is_need(const json_t *need)
{
    const json_t *param = json_object_get(need, "param"), *value = json_object_get(need, "value");
    const json_t *scheme = json_object_get(need, "scheme");
    return is_text(json_object_get(need, "what")) && (is_absent(param) || is_text(param)) &&
           (is_absent(value) || json_is_string(value)) && (is_absent(scheme) || is_text(scheme));
}

static bool is_list_of(const json_t *list, bool (*is_item)(const json_t *))
{
    if (is_absent(list))
        return true;
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
        if (!is_item(item))
            return false;
    return json_is_array(list) && json_array_size(list) <= MAX_WORDS;
}

static bool is_holds(const json_t *value)
{
    const char *text = json_string_value(value);
    return is_absent(value) || (text && strcmp(text, "all") == 0) ||
           (json_is_integer(value) && json_integer_value(value) >= 0);
}

int qp_descriptor_check(const json_t *descriptor, struct qp_error *err)
{
    static const struct {
        const char *key, *expected;
        bool (*is_item)(const json_t *);
    } lists[] = {{"params", "parameters {name, type, ...}", is_param},
                 {"inputs", "ports {name, needs, optional, feedback, collects}", is_port},
                 {"outputs", "ports {name, provides, optional}", is_port},
                 {"needs", "needs {what, param, value, scheme}", is_need},
                 {"collects", "words", is_text},
                 {"forms", "words", is_text},
                 {"uses", "words", is_text}};
    if (!json_is_object(descriptor) || !is_text(json_object_get(descriptor, "name")))
        return qp_fail(err, QP_ERR_INPUT, "the descriptor has no `name`; see schemas/stage.schema.json");
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        if (!is_list_of(json_object_get(descriptor, lists[i].key), lists[i].is_item))
            return qp_fail(err, QP_ERR_INPUT,
                           "`%s` of the descriptor is not a list of %s as schemas/stage.schema.json says", lists[i].key,
                           lists[i].expected);
    const json_t *data = json_object_get(descriptor, "data");
    if (!is_absent(data) && !is_text(data))
        return qp_fail(err, QP_ERR_INPUT, "`data` of the descriptor is not the name of a data entry");
    const json_t *estimates = json_object_get(descriptor, "estimates");
    if (!is_absent(estimates) && !json_is_boolean(estimates))
        return qp_fail(err, QP_ERR_INPUT, "`estimates` of the descriptor is neither true nor false");
    if (!is_holds(json_object_get(descriptor, "holds")))
        return qp_fail(err, QP_ERR_INPUT, "`holds` of the descriptor is neither `all` nor a number of units");
    return 0;
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
