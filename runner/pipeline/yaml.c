#include "runner/pipeline/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/utf8.h"

struct reader {
    yaml_parser_t parser;
    const char *name;
    bool positions;
    json_t *marks;
    char path[QP_YAML_DEPTH * (QP_YAML_KEY + 1) + 512];
};

static const char *position(const struct reader *reader, yaml_mark_t mark, char *text, size_t size)
{
    if (reader->positions)
        snprintf(text, size, "%s:%zu:%zu", reader->name, mark.line + 1, mark.column + 1);
    else
        snprintf(text, size, "%s", reader->name);
    return text;
}

static int fail(const struct reader *reader, yaml_mark_t mark, struct qp_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(const struct reader *reader, yaml_mark_t mark, struct qp_error *err, const char *format, ...)
{
    char at[512];
    va_list args;
    va_start(args, format);
    qp_vfail(err, QP_ERR_INPUT, format, args);
    va_end(args);
    return qp_wrap(err, "%s", position(reader, mark, at, sizeof at));
}

static int put_mark(const struct reader *reader, const char *prefix, yaml_mark_t mark, struct qp_error *err)
{
    char at[512];
    qp_auto_free char *key = malloc(strlen(prefix) + strlen(reader->path) + 1);
    if (!key)
        return qp_fail_memory(err, strlen(reader->path), "a position");
    strcpy(stpcpy(key, prefix), reader->path);
    if (json_object_set_new(reader->marks, key, json_string(position(reader, mark, at, sizeof at))) < 0)
        return qp_fail_memory(err, sizeof at, "a position");
    return 0;
}

static int next(struct reader *reader, yaml_event_t *event, struct qp_error *err)
{
    if (yaml_parser_parse(&reader->parser, event))
        return 0;
    const yaml_parser_t *p = &reader->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return qp_fail_memory(err, 0, "the YAML parser");
    yaml_mark_t mark = p->error == YAML_READER_ERROR ? p->mark : p->problem_mark;
    return fail(reader, mark, err, "not valid YAML: %s%s%s", p->context ? p->context : "", p->context ? ", " : "",
                p->problem ? p->problem : "cannot be read");
}

/* Appends ".key" to the path; the caller cuts it off again. */
static void descend(struct reader *reader, const char *key)
{
    size_t n = strlen(reader->path);
    snprintf(reader->path + n, sizeof reader->path - n, "%s%s", n ? "." : "", key);
}

static int read_scalar(struct reader *reader, const yaml_event_t *event, json_t **out, struct qp_error *err)
{
    const char *text = (const char *)event->data.scalar.value;
    yaml_scalar_style_t style = event->data.scalar.style;
    if (strlen(text) != event->data.scalar.length)
        return fail(reader, event->start_mark, err, "found a NUL character in a value; remove it");
    qp_auto_free char *expanded = NULL;
    if (style == YAML_SINGLE_QUOTED_SCALAR_STYLE)
        expanded = strdup(text);
    else if (qp_yaml_expand(text, &expanded, err) < 0)
        return fail(reader, event->start_mark, err, "%s", err ? err->message : "");
    if (!expanded)
        return qp_fail_memory(err, strlen(text), "a scalar");
    if (style == YAML_PLAIN_SCALAR_STYLE)
        qp_yaml_scalar(expanded, out);
    else
        *out = qp_utf8_is_valid(expanded, strlen(expanded)) ? json_string(expanded) : NULL;
    if (!*out)
        return fail(reader, event->start_mark, err,
                    "found `%.60s`, which is neither a number in range nor valid text; expected a finite number of at "
                    "most 64 bits",
                    expanded);
    return 0;
}

static int read_value(struct reader *reader, yaml_event_t *event, int depth, json_t **out, struct qp_error *err);

static int read_list(struct reader *reader, int depth, json_t *list, struct qp_error *err)
{
    size_t end = strlen(reader->path);
    for (;;) {
        yaml_event_t event;
        int r = next(reader, &event, err);
        if (r < 0)
            return r;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return 0;
        }
        char index[32];
        snprintf(index, sizeof index, "%zu", json_array_size(list));
        descend(reader, index);
        json_t *item = NULL;
        r = read_value(reader, &event, depth, &item, err);
        yaml_event_delete(&event);
        reader->path[end] = '\0';
        if (r < 0)
            return r;
        if (json_array_append_new(list, item) < 0)
            return qp_fail_memory(err, 0, "a list");
    }
}

static int check_key(const struct reader *reader, const yaml_event_t *event, const json_t *mapping,
                     struct qp_error *err)
{
    if (event->type != YAML_SCALAR_EVENT)
        return fail(reader, event->start_mark, err, "found a %s as a key; expected plain text",
                    event->type == YAML_ALIAS_EVENT ? "alias" : "list or mapping");
    const char *key = (const char *)event->data.scalar.value;
    if (event->data.scalar.anchor || event->data.scalar.tag)
        return fail(reader, event->start_mark, err, "anchors and tags are not accepted; write the key plainly");
    if (!*key || strlen(key) != event->data.scalar.length || strlen(key) > QP_YAML_KEY)
        return fail(reader, event->start_mark, err, "a key has 1 to %d bytes and no NUL; this one has %zu", QP_YAML_KEY,
                    event->data.scalar.length);
    if (json_object_get(mapping, key))
        return fail(reader, event->start_mark, err, "the key `%s` is there twice; remove one of them", key);
    return 0;
}

/* The value of a key that was just read; `key` is its event. */
static int read_member(struct reader *reader, const yaml_event_t *key, int depth, json_t *mapping, struct qp_error *err)
{
    int r = check_key(reader, key, mapping, err);
    if (r < 0)
        return r;
    size_t end = strlen(reader->path);
    const char *name = (const char *)key->data.scalar.value;
    descend(reader, name);
    yaml_event_t event;
    r = put_mark(reader, QP_YAML_KEY_MARK, key->start_mark, err);
    if (r == 0)
        r = next(reader, &event, err);
    if (r < 0)
        return r;
    json_t *value = NULL;
    r = read_value(reader, &event, depth, &value, err);
    yaml_event_delete(&event);
    reader->path[end] = '\0';
    if (r == 0 && json_object_set_new(mapping, name, value) < 0)
        r = fail(reader, key->start_mark, err, "the key `%s` is not valid UTF-8", name);
    return r;
}

static int read_mapping(struct reader *reader, int depth, json_t *mapping, struct qp_error *err)
{
    for (;;) {
        yaml_event_t event;
        int r = next(reader, &event, err);
        if (r < 0)
            return r;
        bool end = event.type == YAML_MAPPING_END_EVENT;
        if (!end)
            r = read_member(reader, &event, depth, mapping, err);
        yaml_event_delete(&event);
        if (end || r < 0)
            return r;
    }
}

static bool is_decorated(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor || event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor || event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor || event->data.mapping_start.tag;
    default:
        return event->type == YAML_ALIAS_EVENT;
    }
}

static int read_value(struct reader *reader, yaml_event_t *event, int depth, json_t **out, struct qp_error *err)
{
    if (is_decorated(event))
        return fail(reader, event->start_mark, err,
                    "anchors (&name), aliases (*name) and tags (!name) are not accepted; write the value out");
    if (depth >= QP_YAML_DEPTH && event->type != YAML_SCALAR_EVENT)
        return fail(reader, event->start_mark, err, "nested more than %d deep", QP_YAML_DEPTH);
    int r = put_mark(reader, "", event->start_mark, err);
    if (r < 0)
        return r;
    if (event->type == YAML_SCALAR_EVENT)
        return read_scalar(reader, event, out, err);
    bool list = event->type == YAML_SEQUENCE_START_EVENT;
    json_t *value = list ? json_array() : json_object();
    if (!value)
        return qp_fail_memory(err, 0, "a value");
    r = list ? read_list(reader, depth + 1, value, err) : read_mapping(reader, depth + 1, value, err);
    if (r < 0)
        json_decref(value);
    else
        *out = value;
    return r;
}

/* Takes the events that say where a document begins and ends; an empty text is null. */
static int read_document(struct reader *reader, json_t **out, struct qp_error *err)
{
    bool found = false;
    for (;;) {
        yaml_event_t event;
        int r = next(reader, &event, err);
        if (r < 0)
            return r;
        yaml_event_type_t type = event.type;
        if (type == YAML_DOCUMENT_START_EVENT && found)
            r = fail(reader, event.start_mark, err, "a second document begins here; expected one");
        else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT &&
                 type != YAML_DOCUMENT_END_EVENT && type != YAML_STREAM_END_EVENT) {
            r = read_value(reader, &event, 0, out, err);
            found = true;
        }
        yaml_event_delete(&event);
        if (r < 0 || type == YAML_STREAM_END_EVENT)
            return r;
    }
}

static int parse(struct reader *reader, const char *text, size_t size, json_t **out, struct qp_error *err)
{
    if (!yaml_parser_initialize(&reader->parser))
        return qp_fail_memory(err, 0, "the YAML parser");
    yaml_parser_set_encoding(&reader->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader->parser, (const unsigned char *)text, size);
    json_t *value = NULL;
    int r = read_document(reader, &value, err);
    yaml_parser_delete(&reader->parser);
    if (r < 0) {
        json_decref(value);
        return r;
    }
    *out = value ? value : json_null();
    return 0;
}

static int refuse_nul(const char *text, size_t size, const char *name, struct qp_error *err)
{
    const char *nul = memchr(text, '\0', size);
    if (!nul)
        return 0;
    size_t line = 1, column = 1;
    for (const char *p = text; p < nul; p++, column++)
        if (*p == '\n') {
            line++;
            column = 0;
        }
    return qp_fail(err, QP_ERR_INPUT, "%s:%zu:%zu: found a NUL byte; expected text in UTF-8", name, line, column);
}

int qp_yaml_parse(const struct qp_yaml_text *from, json_t *marks, json_t **out, struct qp_error *err)
{
    if (from->size > QP_YAML_LIMIT)
        return qp_fail(err, QP_ERR_INPUT, "%s: %zu bytes; at most %zu are accepted here", from->name, from->size,
                       QP_YAML_LIMIT);
    int r = refuse_nul(from->text, from->size, from->name, err);
    if (r < 0)
        return r;
    struct reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return qp_fail_memory(err, sizeof *reader, "the YAML parser");
    reader->name = from->name;
    reader->positions = from->positions;
    reader->marks = marks;
    snprintf(reader->path, sizeof reader->path, "%s", from->path);
    r = parse(reader, from->text, from->size, out, err);
    free(reader);
    return r;
}
