/* Messages of stages, kind by kind (libstage/wire/PROTOCOL.md). */
#include <stdio.h>
#include <string.h>

#include "libstage/base/cleanup.h"
#include "runner/report/progress.h"
#include "runner/execution/supervise.h"
#include "runner/execution/threads.h"
#include "runner/report/timeline.h"
#include "runner/machine.h"
#include "runner/pipeline/schemas.h"

static const char *text_of(const json_t *body, const char *key)
{
    const char *text = json_string_value(json_object_get(body, key));
    return text ? text : "";
}

static void handle_hello(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    json_t *endpoints = json_object_get(body, "endpoints");
    size_t i;
    json_t *port;
    json_array_foreach(json_object_get(c->instance->descriptor, "outputs"), i, port)
        if (!json_is_string(json_object_get(endpoints, text_of(port, "name"))))
            qp_supervisor_stop(s, QP_ERR_STAGE, "stage `%s` sent hello without an endpoint for its output `%s`",
                               c->instance->name, text_of(port, "name"));
    snprintf(c->host, sizeof c->host, "%s", text_of(body, "host"));
    snprintf(c->record->hostname, sizeof c->record->hostname, "%s", text_of(body, "hostname"));
    json_decref(c->endpoints);
    c->endpoints = json_incref(endpoints);
    c->greeted = true;
    c->record->greeted_at = qp_now();
}

static void note_move(struct qp_child *c)
{
    c->waits = false;
    c->repeated = 0;
    c->moved_at = qp_now();
}

static void handle_waits(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    (void)s;
    int64_t moved = json_integer_value(json_object_get(body, "moved"));
    if (!c->waits || moved != c->moved)
        note_move(c);
    c->waits = true;
    c->repeated++;
    c->moved = moved;
    c->waits_seq = json_integer_value(json_object_get(body, "seq"));
    snprintf(c->waits_for, sizeof c->waits_for, "%s", text_of(body, "what"));
    snprintf(c->waits_on, sizeof c->waits_on, "%s", text_of(body, "edge"));
}

static void handle_progress(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    (void)s;
    if (c->record->units_done != json_integer_value(json_object_get(body, "done")))
        c->moved_at = qp_now();
    c->record->units_done = json_integer_value(json_object_get(body, "done"));
    c->record->units_total = json_integer_value(json_object_get(body, "total"));
}

static void handle_busy(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    const json_t *unit = json_object_get(body, "unit");
    if (c->ready)
        qp_timeline_note(&s->record, c->record);
    c->record->busy = !json_is_null(unit);
    note_move(c);
    c->record->unit = json_integer_value(unit);
    c->record->busy_since = qp_now();
    c->cpu_seconds = json_number_value(json_object_get(body, "cpu_seconds"));
    qp_arrange_threads(s);
}

/* The same key again replaces, or appends when both are arrays. */
static void handle_report(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    (void)s;
    json_t *value = json_object_get(body, "value"), *old = json_object_get(c->record->report, text_of(body, "key"));
    if (json_is_array(old) && json_is_array(value))
        json_array_extend(old, value);
    else
        json_object_set(c->record->report, text_of(body, "key"), value);
}

static void handle_warning(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    json_t *warning = json_copy((json_t *)body);
    json_object_set_new(warning, "stage", json_string(c->instance->name));
    json_array_append_new(s->record.warnings, warning);
    qp_progress_print(s->progress, c->instance->name, "warning", body);
}

static void handle_log(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    qp_progress_print(s->progress, c->instance->name, "log", body);
}

static void handle_ready(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    (void)body;
    c->ready = true;
    c->moved_at = qp_now();
    qp_progress_stage(s->progress, c->instance->name, "ready");
}

static void handle_failed(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    json_int_t code = json_integer_value(json_object_get(body, "code"));
    bool known = (code >= -QP_ERR_USAGE && code <= -QP_ERR_SPACE) || code == -QP_ERR_INTERRUPTED;
    struct qp_error err;
    qp_fail(&err, known ? -(int)code : QP_ERR_STAGE, "stage `%s`: %s", c->instance->name, text_of(body, "message"));
    qp_supervisor_fail(s, c, err.code, err.message);
}

static void handle_done(struct qp_supervisor *s, struct qp_child *c, const json_t *body)
{
    struct qp_error ignored;
    json_decref(c->record->stage);
    json_decref(c->record->edges);
    c->record->stage = json_incref(json_object_get(body, "stage"));
    c->record->edges = json_incref(json_object_get(body, "edges"));
    c->record->done = true;
    c->record->done_at = qp_now();
    c->record->busy = false;
    if (c->record->units_total > 0)
        c->record->units_done = c->record->units_total;
    for (size_t i = 0; i < s->count; i++)
        s->children[i].repeated = 0; /* what they waited for may have come with this */
    qp_check_counts(s, c);
    qp_progress_stage(s->progress, c->instance->name, "done");
    qp_control_send(s->control, c->instance->name, 0, "bye", NULL, &ignored); /* gone already: as well */
}

static struct qp_child *find_child(const struct qp_supervisor *s, const struct qp_control_message *message)
{
    for (size_t i = 0; i < s->count; i++)
        if (message->replica == 0 && strcmp(s->children[i].instance->name, message->instance) == 0)
            return &s->children[i];
    return NULL;
}

void qp_supervisor_handle(struct qp_supervisor *s, struct qp_control_message *message)
{
    static const struct {
        const char *kind;
        void (*handle)(struct qp_supervisor *, struct qp_child *, const json_t *);
    } kinds[] = {{"hello", handle_hello},   {"ready", handle_ready},     {"progress", handle_progress},
                 {"report", handle_report}, {"busy", handle_busy},       {"waits", handle_waits},
                 {"log", handle_log},       {"warning", handle_warning}, {"failed", handle_failed},
                 {"done", handle_done}};
    qp_auto_json json_t *body = message->body;
    struct qp_child *child = find_child(s, message);
    if (!child)
        return;
    child->message_at = qp_now();
    struct qp_error err;
    if (qp_control_body_check(message->kind, body, &err) < 0) {
        qp_fail(&err, QP_ERR_STAGE, "stage `%s` sent a message that schemas/control.schema.json does not allow: %s",
                child->instance->name, err.message);
        qp_supervisor_fail(s, child, err.code, err.message);
        return;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].kind, message->kind) == 0)
            kinds[i].handle(s, child, body);
}
