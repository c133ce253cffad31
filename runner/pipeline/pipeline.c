#include "runner/pipeline/pipeline.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "libstage/base/words.h"
#include "libstage/stage/window.h"
#include "libstage/wire/times.h"
#include "runner/size.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int unknown_key(const struct qp_document *d, const char *path, const char *key, const char *const *known,
                       size_t count, struct qp_error *err)
{
    char list[512] = "";
    for (size_t i = 0; i < count; i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", known[i]);
    const char *near = qp_nearest(key, known, count);
    qp_auto_free char *at = qp_format("%s%s%s", path, *path ? "." : "", key);
    if (!at)
        return qp_fail_memory(err, strlen(path), key);
    return qp_document_fail_key(d, at, err, "unknown key `%.60s`%s%s%s; known here: %s", key,
                                near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "", list);
}

static int check_keys(const struct qp_document *d, const char *path, const json_t *mapping, const char *const *known,
                      size_t count, struct qp_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)mapping, key, value) {
        bool found = false;
        for (size_t i = 0; i < count; i++)
            found |= strcmp(key, known[i]) == 0;
        if (!found)
            return unknown_key(d, path, key, known, count, err);
    }
    return 0;
}

static int wrong_type(const struct qp_document *d, const char *path, const json_t *value, const char *expected,
                      struct qp_error *err)
{
    char found[80];
    return qp_document_fail(d, path, err, "`%s` is %s; expected %s", path, qp_json_found(value, found, sizeof found),
                            expected);
}

/* The mapping at `path`; an empty one where nothing is written. *out is a new reference. */
static int get_mapping(const struct qp_document *d, const char *path, json_t **out, struct qp_error *err)
{
    json_t *value = qp_document_get(d, path);
    if (value && !json_is_null(value) && !json_is_object(value))
        return wrong_type(d, path, value, "a mapping", err);
    *out = json_is_object(value) ? json_incref(value) : json_object();
    return *out ? 0 : qp_fail_memory(err, 0, path);
}

static int get_text(const struct qp_document *d, const char *path, const char *expected, const char **out,
                    struct qp_error *err)
{
    json_t *value = qp_document_get(d, path);
    if (!value)
        return qp_fail(err, QP_ERR_INPUT, "%s: the key `%s` is missing; expected %s", d->file, path, expected);
    if (!json_is_string(value) || json_string_length(value) == 0)
        return wrong_type(d, path, value, expected, err);
    *out = json_string_value(value);
    return 0;
}

bool qp_is_name(const char *text)
{
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)text[i]) && (i == 0 || !strchr("_-", text[i])))
            return false;
    return n > 0 && n <= 64;
}

/* ---- from ---- */

static int add_source(const struct qp_document *d, struct qp_instance *in, const char *input, const char *path,
                      const char *text, struct qp_error *err)
{
    struct qp_source *grown = realloc(in->sources, (in->source_count + 1) * sizeof *grown);
    if (!grown)
        return qp_fail_memory(err, sizeof *grown, path);
    in->sources = grown;
    struct qp_source *s = &grown[in->source_count++];
    const char *dot = strchr(text, '.');
    *s = (struct qp_source){.input = input ? strdup(input) : NULL,
                            .instance = dot ? strndup(text, (size_t)(dot - text)) : strdup(text),
                            .output = dot ? strdup(dot + 1) : NULL,
                            .path = strdup(path)};
    if (!s->instance || !s->path || (input && !s->input) || (dot && !s->output))
        return qp_fail_memory(err, strlen(text), path);
    if (!qp_is_name(s->instance) || (dot && !qp_is_name(s->output)))
        return qp_document_fail(d, path, err, "found `%.60s`; expected the name of a stage, or stage.port", text);
    return 0;
}

static const char source_expected[] =
    "one stage, or stage.port; for feedback {from: STAGE, delay: 1} (this version knows no lists here)";

/* {from: quantize, delay: 1}: a feedback edge. */
static int add_feedback(const struct qp_document *d, struct qp_instance *in, const char *path, const char *port,
                        const json_t *value, struct qp_error *err)
{
    static const char *const known[] = {"from", "delay"};
    const json_t *from = json_object_get(value, "from"), *delay = json_object_get(value, "delay");
    qp_auto_free char *at = qp_format("%s.delay", path);
    int r = at ? check_keys(d, path, value, known, COUNT(known), err) : qp_fail_memory(err, strlen(path), port);
    if (r == 0 && !json_is_string(from))
        r = wrong_type(d, path, value, source_expected, err);
    if (r == 0 && delay && !(json_is_integer(delay) && json_integer_value(delay) == 1))
        r = wrong_type(d, at, delay, "1: each block comes back before the next one goes; this version knows no other",
                       err);
    if (r == 0)
        r = add_source(d, in, port, path, json_string_value(from), err);
    if (r == 0)
        in->sources[in->source_count - 1].delay = delay != NULL;
    return r;
}

static int add_mapped_source(const struct qp_document *d, struct qp_instance *in, const char *path, const char *port,
                             const json_t *value, struct qp_error *err)
{
    qp_auto_free char *at = qp_format("%s.%s", path, port);
    if (!at)
        return qp_fail_memory(err, strlen(path), port);
    if (strcmp(port, "delay") == 0)
        return qp_document_fail_key(d, at, err,
                                    "`delay` belongs to one input: from: {PORT: STAGE, PORT: {from: STAGE, delay: 1}}");
    if (json_is_object(value))
        return add_feedback(d, in, at, port, value, err);
    if (!json_is_string(value))
        return wrong_type(d, at, value, source_expected, err);
    return add_source(d, in, port, at, json_string_value(value), err);
}

static int read_from(const struct qp_document *d, struct qp_instance *in, struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s.from", in->path);
    const json_t *from = path ? qp_document_get(d, path) : NULL;
    if (!path)
        return qp_fail_memory(err, 0, in->name);
    if (!from || json_is_null(from))
        return 0;
    if (json_is_string(from))
        return add_source(d, in, NULL, path, json_string_value(from), err);
    if (json_is_array(from))
        return qp_document_fail(d, path, err,
                                "found a list; this version takes one stage an input: name it, or map each input port "
                                "to its source, {port: stage}");
    if (!json_is_object(from))
        return wrong_type(d, path, from, "a stage, stage.port, or a mapping input port -> source", err);
    const char *port;
    json_t *value;
    json_object_foreach((json_t *)from, port, value) {
        int r = add_mapped_source(d, in, path, port, value, err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- place ---- */

static int check_whole(const struct qp_document *d, const char *path, const json_t *value, json_int_t min,
                       json_int_t max, struct qp_error *err)
{
    json_int_t n = json_integer_value(value);
    if (json_is_integer(value) && n >= min && n <= max)
        return 0;
    char expected[80];
    snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)min, (long long)max);
    return wrong_type(d, path, value, expected, err);
}

static int read_place_key(const struct qp_document *d, struct qp_instance *in, const char *key, const json_t *value,
                          struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s.place.%s", in->path, key);
    if (!path)
        return qp_fail_memory(err, 0, key);
    if (strcmp(key, "threads") == 0) {
        in->threads = (int)json_integer_value(value);
        return check_whole(d, path, value, 1, 4096, err);
    }
    if (strcmp(key, "memory") == 0)
        return qp_size_read(value, &in->memory) ? 0 : wrong_type(d, path, value, "bytes, as in 2GiB or 500MB", err);
    if (strcmp(key, "replicas") == 0) {
        int r = check_whole(d, path, value, 1, 4096, err);
        if (r == 0 && json_integer_value(value) != 1)
            r = qp_document_fail(d, path, err,
                                 "found replicas: %" JSON_INTEGER_FORMAT
                                 "; this version runs one replica of a stage: write 1, or remove the key",
                                 json_integer_value(value));
        return r;
    }
    if (strcmp(key, "device") == 0 && !(json_is_string(value) && strcmp(json_string_value(value), "cpu") == 0))
        return wrong_type(d, path, value, "`cpu`, the device of this version", err);
    if (strcmp(key, "hosts") == 0)
        return qp_document_fail_key(d, path, err,
                                    "`hosts` is not supported by this version, which runs on one machine; remove it");
    return 0;
}

static int read_place(const struct qp_document *d, struct qp_instance *in, struct qp_error *err)
{
    static const char *const known[] = {"threads", "memory", "replicas", "device", "hosts"};
    qp_auto_free char *path = qp_format("%s.place", in->path);
    qp_auto_json json_t *place = NULL;
    int r = path ? get_mapping(d, path, &place, err) : qp_fail_memory(err, 0, in->name);
    if (r == 0)
        r = check_keys(d, path, place, known, COUNT(known), err);
    const char *key;
    json_t *value;
    if (r == 0)
        json_object_foreach(place, key, value)
            if ((r = read_place_key(d, in, key, value, err)) < 0)
                return r;
    return r;
}

/* ---- use and run ---- */

static int add_argument(struct qp_instance *in, const char *argument, size_t size, size_t *count, struct qp_error *err)
{
    char **grown = realloc(in->command, (*count + 2) * sizeof *grown);
    if (!grown)
        return qp_fail_memory(err, size, in->name);
    in->command = grown;
    grown[*count] = strndup(argument, size);
    grown[*count + 1] = NULL;
    return grown[(*count)++] ? 0 : qp_fail_memory(err, size, in->name);
}

static int split_command(struct qp_instance *in, const char *text, struct qp_error *err)
{
    size_t count = 0;
    for (const char *p = text + strspn(text, " \t\n"); *p; p += strspn(p, " \t\n")) {
        size_t n = strcspn(p, " \t\n");
        int r = add_argument(in, p, n, &count, err);
        if (r < 0)
            return r;
        p += n;
    }
    return 0;
}

static int read_command(const struct qp_document *d, struct qp_instance *in, const char *path, const json_t *run,
                        struct qp_error *err)
{
    static const char expected[] = "a command line: text without a shell's syntax, or a list of arguments";
    if (!json_is_string(run) && !json_is_array(run))
        return wrong_type(d, path, run, expected, err);
    int r = json_is_string(run) ? split_command(in, json_string_value(run), err) : 0;
    size_t i, count = 0;
    json_t *argument;
    json_array_foreach(run, i, argument) {
        if (!json_is_string(argument))
            return wrong_type(d, path, argument, "an argument of the command line, in quotes if it looks like a number",
                              err);
        if (r == 0)
            r = add_argument(in, json_string_value(argument), json_string_length(argument), &count, err);
    }
    if (r == 0 && (!in->command || !in->command[0][0]))
        r = qp_document_fail(d, path, err, "the command line is empty; expected %s", expected);
    in->own = true;
    return r;
}

static int read_use(const struct qp_document *d, struct qp_instance *in, const json_t *use, struct qp_error *err)
{
    qp_auto_free char *path = qp_format("%s.use", in->path);
    if (!path)
        return qp_fail_memory(err, 0, in->name);
    if (use && (!json_is_string(use) || !qp_is_name(json_string_value(use))))
        return wrong_type(d, path, use, "the name of a built-in stage (`quantpipe stages` lists them)", err);
    in->use = strdup(use ? json_string_value(use) : in->name);
    return in->use ? 0 : qp_fail_memory(err, 0, in->name);
}

static int read_executable(const struct qp_document *d, struct qp_instance *in, const json_t *stage,
                           struct qp_error *err)
{
    const json_t *run = json_object_get(stage, "run"), *use = json_object_get(stage, "use");
    qp_auto_free char *path = qp_format("%s.run", in->path);
    if (!path)
        return qp_fail_memory(err, 0, in->name);
    if (run && use)
        return qp_document_fail_key(d, path, err, "`use` and `run` are both there; keep one of them");
    return run ? read_command(d, in, path, run, err) : read_use(d, in, use, err);
}

/* ---- stages ---- */

static int read_instance(const struct qp_document *d, const char *name, struct qp_instance *in, struct qp_error *err)
{
    static const char *const known[] = {"use", "run", "from", "with", "place"};
    in->branch = QP_SHARED;
    in->name = strdup(name);
    in->path = qp_format("stages.%s", name);
    in->wants = json_array();
    qp_auto_free char *with = qp_format("stages.%s.with", name);
    if (!in->name || !in->path || !in->wants || !with)
        return qp_fail_memory(err, 0, name);
    if (!qp_is_name(name))
        return qp_document_fail_key(d, in->path, err,
                                    "a stage is named by 1 to 64 letters, digits, `_` and `-`, not `%.60s`", name);
    qp_auto_json json_t *stage = NULL;
    int r = get_mapping(d, in->path, &stage, err);
    if (r == 0)
        r = check_keys(d, in->path, stage, known, COUNT(known), err);
    if (r == 0)
        r = read_executable(d, in, stage, err);
    if (r == 0)
        r = read_from(d, in, err);
    if (r == 0)
        r = get_mapping(d, with, &in->params, err);
    return r < 0 ? r : read_place(d, in, err);
}

static int read_stages(struct qp_pipeline *p, struct qp_error *err)
{
    const struct qp_document *d = p->document;
    json_t *stages = json_object_get(d->root, "stages");
    if (!stages)
        return qp_fail(err, QP_ERR_INPUT, "%s: the key `stages` is missing; expected a mapping of stages", d->file);
    if (!json_is_object(stages) || json_object_size(stages) == 0)
        return wrong_type(d, "stages", stages, "a mapping from names to stages", err);
    if (json_object_size(stages) > QP_MAX_INSTANCES)
        return qp_document_fail(d, "stages", err, "%zu stages; at most %d run together", json_object_size(stages),
                                QP_MAX_INSTANCES);
    p->instances = calloc(json_object_size(stages), sizeof *p->instances);
    if (!p->instances)
        return qp_fail_memory(err, 0, "stages");
    const char *name;
    json_t *stage;
    json_object_foreach(stages, name, stage) {
        int r = read_instance(d, name, &p->instances[p->count++], err);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- data ---- */

static int read_entry(struct qp_pipeline *p, const char *name, const json_t *entry, struct qp_error *err)
{
    char path[QP_MAX_INSTANCES * 2];
    snprintf(path, sizeof path, "data.%s", name);
    if (json_is_null(entry))
        return 0;
    if (!json_is_object(entry))
        return wrong_type(p->document, path, entry, "a mapping, as in {text: train.txt}", err);
    json_t *copy = json_deep_copy(entry);
    if (!copy || json_object_set_new(p->data, name, copy) < 0)
        return qp_fail_memory(err, 0, path);
    const char *text = json_string_value(json_object_get(copy, "text"));
    if (!text)
        return 0; /* what is there is checked by the loader of windows */
    strcat(path, ".text");
    qp_auto_free char *absolute = NULL;
    int r = qp_document_path(p->document, path, text, &absolute, err);
    if (r == 0 && json_object_set_new(copy, "text", json_string(absolute)) < 0)
        r = qp_fail_memory(err, 0, path);
    return r;
}

static int read_data(struct qp_pipeline *p, struct qp_error *err)
{
    static const char *const known[] = {"calibration", "evaluation"};
    qp_auto_json json_t *data = NULL;
    int r = get_mapping(p->document, "data", &data, err);
    if (r == 0)
        r = check_keys(p->document, "data", data, known, COUNT(known), err);
    p->data = json_object();
    p->warnings = json_array();
    if (r == 0 && !p->data)
        r = qp_fail_memory(err, 0, "data");
    const char *name;
    json_t *entry;
    if (r == 0)
        json_object_foreach(data, name, entry)
            if ((r = read_entry(p, name, entry, err)) < 0)
                return r;
    return r;
}

/* ---- the whole ---- */

static int read_version(const struct qp_document *d, struct qp_error *err)
{
    const json_t *version = json_object_get(d->root, "quantpipe");
    if (!version)
        return qp_fail(err, QP_ERR_INPUT, "%s: the key `quantpipe` is missing; begin with `quantpipe: %d`", d->file,
                       QP_PIPELINE_VERSION);
    if (!json_is_integer(version) || json_integer_value(version) != QP_PIPELINE_VERSION)
        return wrong_type(d, "quantpipe", version, "1, the version of the pipeline's form that this program knows",
                          err);
    return 0;
}

/* "out/", "out//" and "out" are one folder: names are made from it by appending. */
static void strip_slashes(char *path)
{
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = '\0';
}

static int read_strict(struct qp_pipeline *p, struct qp_error *err)
{
    const json_t *strict = json_object_get(p->document->root, "strict");
    if (strict && !json_is_boolean(strict))
        return wrong_type(p->document, "strict", strict, "true or false", err);
    p->strict = json_is_true(strict);
    return 0;
}

static int read_memory(struct qp_pipeline *p, struct qp_error *err)
{
    const json_t *memory = json_object_get(p->document->root, "memory");
    if (memory && !qp_size_read(memory, &p->memory))
        return wrong_type(p->document, "memory", memory, "bytes, as in 8GB or 600MB", err);
    return 0;
}

static int read_top(struct qp_pipeline *p, struct qp_error *err)
{
    static const char *const known[] = {"quantpipe", "model",    "output", "scheme", "data",
                                        "stages",    "profiles", "strict", "memory"};
    const struct qp_document *d = p->document;
    const char *model = NULL, *output = NULL;
    int r = check_keys(d, "", d->root, known, COUNT(known), err);
    if (r == 0)
        r = read_version(d, err);
    if (r == 0)
        r = get_text(d, "model", "a Hugging Face folder or a .gguf file", &model, err);
    if (r == 0)
        r = qp_document_path(d, "model", model, &p->model, err);
    if (r == 0)
        r = get_text(d, "output", "the folder to make", &output, err);
    if (r == 0)
        r = qp_document_path(d, "output", output, &p->output, err);
    if (r < 0)
        return r;
    strip_slashes(p->output);
    r = read_memory(p, err);
    return r < 0 ? r : read_strict(p, err);
}

int qp_pipeline_parse(struct qp_document *document, struct qp_pipeline **out, struct qp_error *err)
{
    struct qp_pipeline *p = calloc(1, sizeof *p);
    if (!p) {
        qp_document_free(document);
        return qp_fail_memory(err, sizeof *p, "the pipeline");
    }
    p->document = document;
    p->timeout = QP_TIMEOUT_SECONDS;
    p->blocks = QP_WINDOW_BLOCKS;
    int r = read_top(p, err);
    if (r == 0)
        r = qp_branches_read(p, err);
    if (r == 0)
        r = read_data(p, err);
    if (r == 0)
        r = read_stages(p, err);
    if (r < 0) {
        qp_pipeline_free(p);
        return r;
    }
    *out = p;
    return 0;
}

static void free_instance(struct qp_instance *in)
{
    for (size_t i = 0; i < in->source_count; i++) {
        free(in->sources[i].input);
        free(in->sources[i].instance);
        free(in->sources[i].output);
        free(in->sources[i].path);
    }
    for (char **argument = in->command; argument && *argument; argument++)
        free(*argument);
    free(in->command);
    free(in->sources);
    free(in->name);
    free(in->path);
    free(in->use);
    json_decref(in->params);
    json_decref(in->descriptor);
    json_decref(in->wants);
}

void qp_instances_free(struct qp_instance *instances, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free_instance(&instances[i]);
    free(instances);
}

void qp_pipeline_free(struct qp_pipeline *pipeline)
{
    if (!pipeline)
        return;
    qp_instances_free(pipeline->instances, pipeline->count);
    for (size_t i = 0; i < pipeline->edge_count; i++)
        free(pipeline->edges[i].id);
    qp_branches_free(pipeline);
    free(pipeline->edges);
    free(pipeline->model);
    free(pipeline->output);
    json_decref(pipeline->scheme);
    json_decref(pipeline->data);
    json_decref(pipeline->warnings);
    qp_document_free(pipeline->document);
    free(pipeline);
}

struct qp_instance *qp_pipeline_find(const struct qp_pipeline *pipeline, const char *name)
{
    for (size_t i = 0; i < pipeline->count; i++)
        if (strcmp(pipeline->instances[i].name, name) == 0)
            return &pipeline->instances[i];
    return NULL;
}
