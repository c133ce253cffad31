#include <stdlib.h>

#include "libstage/stage/internal.h"

/* Where a call keeps what the stage gives. */
struct catcher {
    struct qp_unit **units;
    size_t count, capacity;
    json_t *report;
};

static int emit(void *context, size_t port, struct qp_unit *unit, struct qp_error *err)
{
    struct catcher *catch = context;
    if (port > 0) {
        qp_unit_free(unit);
        return 0;
    }
    if (catch->count == catch->capacity) {
        size_t capacity = catch->capacity ? 2 * catch->capacity : 16;
        struct qp_unit **units = realloc(catch->units, capacity * sizeof *units);
        if (!units) {
            qp_unit_free(unit);
            return qp_fail_memory(err, capacity * sizeof *units, "emitted units");
        }
        catch->units = units;
        catch->capacity = capacity;
    }
    catch->units[catch->count++] = unit;
    return 0;
}

static void report(void *context, const char *key, json_t *value)
{
    json_t *object = ((struct catcher *)context)->report, *old = json_object_get(object, key);
    if (json_is_array(old) && json_is_array(value)) {
        json_array_extend(old, value);
        json_decref(value);
    } else {
        json_object_set_new(object, key, value);
    }
}

/* Warnings come in the report under "warnings". */
static void warn(void *context, const char *code, const char *where, const char *message)
{
    report(context, "warnings", json_pack("[{s:s, s:s, s:s}]", "code", code, "where", where, "message", message));
}

static void log_nothing(void *context, enum qp_level level, const char *message)
{
    (void)context;
    (void)level;
    (void)message;
}

static void progress(void *context, int64_t done, int64_t total)
{
    (void)context;
    (void)done;
    (void)total;
}

static bool cancelled(void *context)
{
    (void)context;
    return false;
}

static const struct stage_surroundings around = {emit, report, warn, log_nothing, progress, cancelled};

/* NULL for ports: all units come through the first. */
static const char *port_of(const struct qp_stage *stage, const char *const *ports, size_t i)
{
    return ports ? ports[i] : stage->desc->inputs[0].name;
}

static void connect_ports(struct qp_stage *stage, const char *const *ports, size_t count)
{
    for (size_t i = 0; i < count && qp_port_count(stage->desc->inputs) > 0; i++)
        stage->connected |= (uint64_t)1 << qp_port_index(stage->desc->inputs, port_of(stage, ports, i));
}

static int feed(struct qp_stage *stage, struct qp_unit **units, const char *const *ports, size_t count,
                struct qp_error *err)
{
    int r = 0;
    if (qp_port_count(stage->desc->inputs) == 0)
        return qp_stage_process(stage, NULL, err);
    for (size_t i = 0; i < count; i++) {
        stage->port = port_of(stage, ports, i);
        if (r == 0)
            r = qp_stage_process(stage, units[i], err);
        else
            qp_unit_free(units[i]);
    }
    return r;
}

static json_t *word_array(const char *const *list)
{
    json_t *array = json_array();
    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

int qp_stage_call(const struct qp_stage_desc *desc, const struct qp_call *call, struct qp_unit ***out, size_t *count,
                  json_t **report_out, struct qp_error *err)
{
    struct catcher catch = {.report = json_object()};
    json_t *wanted = word_array(call->wants);
    struct qp_stage stage = {.desc = desc,
                             .context = call->context,
                             .wants = wanted,
                             .scratch = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
                             .threads = 1,
                             .kernels = qp_kernels_open("cpu"),
                             .around = &around,
                             .around_context = &catch};
    connect_ports(&stage, call->ports, call->count);
    int r = qp_stage_begin(&stage, call->params, err);
    if (r == 0)
        r = feed(&stage, call->units, call->ports, call->count, err);
    else
        for (size_t i = 0; i < call->count; i++)
            qp_unit_free(call->units[i]);
    qp_stage_end(&stage);
    json_decref(wanted);
    for (size_t i = 0; r < 0 && i < catch.count; i++)
        qp_unit_free(catch.units[i]);
    if (r < 0)
        free(catch.units);
    if (r < 0 || !report_out)
        json_decref(catch.report);
    else
        *report_out = catch.report;
    if (r == 0) {
        *out = catch.units;
        *count = catch.count;
    }
    return r;
}
