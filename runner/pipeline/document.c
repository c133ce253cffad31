#include "runner/pipeline/document.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "libstage/base/utf8.h"
#include "runner/pipeline/yaml.h"

int qp_document_load(const char *path, struct qp_document **out, struct qp_error *err)
{
    qp_auto_free char *text = NULL;
    size_t size = 0;
    int r = qp_read_file(path, QP_YAML_LIMIT, &text, &size, err);
    return r < 0 ? r : qp_document_parse(text, size, path, out, err);
}

int qp_document_parse(const char *text, size_t size, const char *file, struct qp_document **out, struct qp_error *err)
{
    struct qp_document *d = calloc(1, sizeof *d);
    int r = 0;
    if (!d)
        return qp_fail_memory(err, sizeof *d, file);
    d->file = strdup(file);
    d->folder = qp_folder_of(file);
    d->marks = json_object();
    if (!d->file || !d->folder || !d->marks)
        r = qp_fail_memory(err, size, file);
    else
        r = qp_yaml_parse(&(struct qp_yaml_text){text, size, file, true, ""}, d->marks, &d->root, err);
    if (r == 0 && !json_is_object(d->root)) {
        char found[80];
        r = qp_fail(err, QP_ERR_INPUT, "%s:1:1: found %s; expected a mapping that begins with `quantpipe: 1`", file,
                    qp_json_found(d->root, found, sizeof found));
    }
    if (r < 0)
        qp_document_free(d);
    else
        *out = d;
    return r;
}

void qp_document_free(struct qp_document *document)
{
    if (!document)
        return;
    free(document->file);
    free(document->folder);
    json_decref(document->root);
    json_decref(document->marks);
    free(document);
}

/* Lays `over` on `base`. Values are shared, but mappings that get merged into are copied first. */
static int merge(json_t *base, json_t *over, struct qp_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(over, key, value) {
        json_t *old = json_object_get(base, key);
        int r = 0;
        if (json_is_object(old) && json_is_object(value))
            r = merge(old, value, err);
        else if (json_object_set_new(base, key, json_deep_copy(value)) < 0)
            r = qp_fail_memory(err, 0, "an overlay");
        if (r < 0)
            return r;
    }
    return 0;
}

/* Marks under `prefix` become marks of what the overlay was laid on. */
static int move_marks(json_t *marks, const char *prefix, struct qp_error *err)
{
    size_t n = strlen(prefix);
    qp_auto_json json_t *moved = json_object();
    const char *key;
    json_t *value;
    json_object_foreach(marks, key, value) {
        const char *path = key + (key[0] == QP_YAML_KEY_MARK[0]);
        if (strncmp(path, prefix, n) != 0 || path[n] != '.')
            continue;
        qp_auto_free char *name = qp_format("%.*s%s", (int)(path - key), key, path + n + 1);
        if (!name || json_object_set(moved, name, value) < 0)
            return qp_fail_memory(err, 0, "positions");
    }
    return json_object_update(marks, moved) < 0 ? qp_fail_memory(err, 0, "positions") : 0;
}

static int unknown_profile(const struct qp_document *document, const json_t *profiles, const char *name,
                           struct qp_error *err)
{
    const char *names[64];
    size_t count = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)profiles, key, value)
        if (count < 64)
            names[count++] = key;
    const char *near = qp_nearest(name, names, count);
    return qp_document_fail(document, "profiles", err, "there is no profile `%s`%s%s%s", name,
                            near    ? "; did you mean `"
                            : count ? ""
                                    : "; the pipeline has none",
                            near ? near : "", near ? "`?" : "");
}

int qp_document_profile(struct qp_document *document, const char *name, struct qp_error *err)
{
    json_t *profiles = json_object_get(document->root, "profiles");
    json_t *overlay = json_object_get(profiles, name);
    char prefix[QP_YAML_KEY + 16], found[80];
    snprintf(prefix, sizeof prefix, "profiles.%s", name);
    if (!overlay)
        return unknown_profile(document, profiles, name, err);
    if (!json_is_object(overlay))
        return qp_document_fail(document, prefix, err, "found %s; expected a mapping to lay over the pipeline",
                                qp_json_found(overlay, found, sizeof found));
    if (json_object_get(overlay, "profiles"))
        return qp_document_fail(document, prefix, err, "a profile cannot hold `profiles`; remove that key");
    int r = merge(document->root, overlay, err);
    return r < 0 ? r : move_marks(document->marks, prefix, err);
}

/* The mapping that holds the last key of `path`, made where it is missing; *last points into path. */
static int find_parent(struct qp_document *document, char *path, const char *option, json_t **parent, const char **last,
                       struct qp_error *err)
{
    json_t *at = document->root;
    char *key = path;
    for (char *dot; (dot = strchr(key, '.')); key = dot + 1) {
        *dot = '\0';
        json_t *next = json_object_get(at, key);
        if (!next || json_is_null(next)) {
            next = json_object();
            if (json_object_set_new(at, key, next) < 0)
                return qp_fail_memory(err, 0, option);
        }
        char found[80];
        if (!json_is_object(next))
            return qp_fail(err, QP_ERR_USAGE, "%s: `%s` is %s, so nothing can be set below it", option, path,
                           qp_json_found(next, found, sizeof found));
        *dot = '.';
        at = next;
    }
    *parent = at;
    *last = key;
    return 0;
}

static bool bad_path(const char *path)
{
    size_t n = strlen(path);
    return n == 0 || path[0] == '.' || path[n - 1] == '.' || strstr(path, "..") || n > QP_YAML_KEY;
}

static int set_value(struct qp_document *document, char *path, const char *option, json_t *value, struct qp_error *err)
{
    json_t *parent = NULL;
    const char *last = NULL;
    int r = find_parent(document, path, option, &parent, &last, err);
    if (r == 0 && json_object_set(parent, last, value) < 0)
        r = qp_fail_memory(err, 0, option);
    qp_auto_free char *key = r == 0 ? qp_format(QP_YAML_KEY_MARK "%s", path) : NULL;
    if (r == 0 && (!key || json_object_set_new(document->marks, key, json_string(option)) < 0))
        r = qp_fail_memory(err, 0, option);
    return r;
}

int qp_document_set(struct qp_document *document, const char *assignment, struct qp_error *err)
{
    const char *equals = strchr(assignment, '=');
    qp_auto_free char *path = equals ? strndup(assignment, (size_t)(equals - assignment)) : NULL;
    if (!equals || (path && bad_path(path)))
        return qp_fail(err, QP_ERR_USAGE, "--set %s: expected KEY.KEY=VALUE, as in stages.quantize.with.damping=0.05",
                       assignment);
    qp_auto_free char *option = qp_format("--set %s", assignment);
    if (!path || !option)
        return qp_fail_memory(err, strlen(assignment), "--set");
    qp_auto_json json_t *value = NULL;
    int r = qp_yaml_parse(&(struct qp_yaml_text){equals + 1, strlen(equals + 1), option, false, path}, document->marks,
                          &value, err);
    return r < 0 ? r : set_value(document, path, option, value, err);
}

int qp_document_set_text(struct qp_document *document, const char *path, const char *option, const char *value,
                         struct qp_error *err)
{
    qp_auto_json json_t *text = json_string(value);
    qp_auto_free char *copy = strdup(path);
    if (!qp_utf8_is_valid(value, strlen(value)))
        return qp_fail(err, QP_ERR_USAGE, "%s: the value is not valid UTF-8", option);
    int r = copy ? set_value(document, copy, option, text, err) : qp_fail_memory(err, strlen(path), option);
    if (r == 0 && json_object_set_new(document->marks, path, json_string(option)) < 0)
        r = qp_fail_memory(err, 0, option);
    return r;
}

void qp_document_remove(struct qp_document *document, const char *path)
{
    const char *dot = strrchr(path, '.'), *key;
    qp_auto_free char *above = strndup(path, dot ? (size_t)(dot - path) : 0);
    if (!above)
        return;
    json_object_del(qp_document_get(document, above), dot ? dot + 1 : path);
    size_t n = strlen(path);
    void *next;
    json_t *mark;
    json_object_foreach_safe(document->marks, next, key, mark)
    {
        const char *at = key + (key[0] == QP_YAML_KEY_MARK[0]);
        if (strncmp(at, path, n) == 0 && (at[n] == '\0' || at[n] == '.'))
            json_object_del(document->marks, key);
    }
}

json_t *qp_document_get(const struct qp_document *document, const char *path)
{
    json_t *at = document->root;
    while (at && *path) {
        char key[QP_YAML_KEY + 1];
        size_t n = strcspn(path, ".");
        if (n >= sizeof key)
            return NULL;
        memcpy(key, path, n);
        key[n] = '\0';
        at = json_is_array(at) ? json_array_get(at, strtoul(key, NULL, 10)) : json_object_get(at, key);
        path += n + (path[n] == '.');
    }
    return at;
}

static const char *mark_of(const struct qp_document *document, const char *prefix, const char *path)
{
    qp_auto_free char *key = qp_format("%s%s", prefix, path);
    return key ? json_string_value(json_object_get(document->marks, key)) : NULL;
}

const char *qp_document_at(const struct qp_document *document, const char *path)
{
    qp_auto_free char *around = strdup(path);
    while (around && *around) {
        const char *mark = mark_of(document, "", around);
        if (mark)
            return mark;
        char *dot = strrchr(around, '.');
        *(dot ? dot : around) = '\0';
    }
    return document->file;
}

const char *qp_document_key_at(const struct qp_document *document, const char *path)
{
    const char *mark = mark_of(document, QP_YAML_KEY_MARK, path);
    return mark ? mark : qp_document_at(document, path);
}

int qp_document_path(const struct qp_document *document, const char *path, const char *value, char **out,
                     struct qp_error *err)
{
    bool from_option = strncmp(qp_document_at(document, path), "--", 2) == 0;
    qp_auto_free char *joined =
        from_option || strcmp(document->folder, ".") == 0 ? strdup(value) : qp_join(document->folder, value);
    if (!joined)
        return qp_fail_memory(err, strlen(value), path);
    qp_auto_free char *here = joined[0] == '/' ? NULL : getcwd(NULL, 0);
    if (joined[0] != '/' && !here)
        return qp_fail_errno(err, QP_ERR_INPUT, "the working directory");
    *out = here ? qp_join(here, joined) : strdup(joined);
    return *out ? 0 : qp_fail_memory(err, strlen(joined), path);
}

int qp_document_fail(const struct qp_document *document, const char *path, struct qp_error *err, const char *format,
                     ...)
{
    va_list args;
    va_start(args, format);
    qp_vfail(err, QP_ERR_INPUT, format, args);
    va_end(args);
    return qp_wrap(err, "%s", qp_document_at(document, path));
}

int qp_document_fail_key(const struct qp_document *document, const char *path, struct qp_error *err, const char *format,
                         ...)
{
    va_list args;
    va_start(args, format);
    qp_vfail(err, QP_ERR_INPUT, format, args);
    va_end(args);
    return qp_wrap(err, "%s", qp_document_key_at(document, path));
}

/* The position of the key that a message names in quotes below `path`: "unknown key 'gruop'". */
static const char *quoted_key(const struct qp_document *document, const char *path, const char *message)
{
    const char *open = strchr(message, '\''), *close = open ? strchr(open + 1, '\'') : NULL;
    qp_auto_free char *key = close ? qp_format("%s.%.*s", path, (int)(close - open - 1), open + 1) : NULL;
    return key ? mark_of(document, QP_YAML_KEY_MARK, key) : NULL;
}

int qp_document_place(const struct qp_document *document, const char *path, struct qp_error *err)
{
    const char *colon = strstr(err->message, ": ");
    qp_auto_free char *named = colon ? strndup(err->message, (size_t)(colon - err->message)) : NULL;
    bool known = named && strncmp(named, path, strlen(path)) == 0 && !strchr(named, ' ');
    const char *at = quoted_key(document, known ? named : path, err->message);
    return qp_wrap(err, "%s", at ? at : qp_document_at(document, known ? named : path));
}

const char *qp_json_found(const json_t *value, char *text, size_t size)
{
    switch (value ? json_typeof(value) : JSON_NULL) {
    case JSON_OBJECT:
        snprintf(text, size, "a mapping");
        break;
    case JSON_ARRAY:
        snprintf(text, size, "a list");
        break;
    case JSON_STRING:
        snprintf(text, size, "the text `%.48s`", json_string_value(value));
        break;
    case JSON_INTEGER:
        snprintf(text, size, "the number %" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        snprintf(text, size, "the number %g", json_real_value(value));
        break;
    case JSON_NULL:
        snprintf(text, size, "nothing");
        break;
    default:
        snprintf(text, size, "%s", json_is_true(value) ? "true" : "false");
    }
    return text;
}
