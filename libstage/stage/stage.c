#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/failure.h"
#include "libstage/base/utf8.h"
#include "libstage/stage/internal.h"
#include "libstage/tensor/operations.h"

#define WHERE 1024 /* bytes of the place that a warning is about */

size_t qp_port_count(const struct qp_port *ports)
{
    size_t count = 0;
    while (ports && ports[count].name)
        count++;
    return count;
}

/* The only one, or the only one that is not optional; -1 when there is none. */
static int only_port(const struct qp_port *ports, size_t count)
{
    int found = count == 1 ? 0 : -1;
    for (size_t i = 0, required = 0; count > 1 && i < count; i++)
        if (!ports[i].optional)
            found = required++ == 0 ? (int)i : -1;
    return found;
}

int qp_port_index(const struct qp_port *ports, const char *name)
{
    size_t count = qp_port_count(ports);
    if (!name)
        return only_port(ports, count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(ports[i].name, name) == 0)
            return (int)i;
    return -1;
}

const char *qp_level_name(enum qp_level level)
{
    return level == QP_DEBUG ? "debug" : level == QP_INFO ? "info" : "warning";
}

int qp_stage_begin(struct qp_stage *stage, const json_t *params, struct qp_error *err)
{
    size_t size = stage->desc->state_size;
    void *state = calloc(1, size ? size : 1);
    if (!state)
        return qp_fail_memory(err, size, "the stage's state");
    int r = qp_params_parse(stage->desc->params, params, state, err);
    if (r < 0) {
        free(state);
        return r;
    }
    stage->state = state;
    r = stage->desc->open ? qp_operations_check(stage->desc->open(stage, state, err), err) : 0;
    return qp_json_check(r, err);
}

static const char *scheme_name(const json_t *scheme)
{
    const char *name = json_string_value(json_is_string(scheme) ? scheme : json_object_get(scheme, "name"));
    return name ? name : "one without a name";
}

/* The scheme of a model unit is that of the context, or becomes it at the beginning of a scheme's branch. A budget's is
 * whatever allocate has made of it. */
static int settle_scheme(const struct qp_stage *stage, const struct qp_unit *unit, struct qp_error *err)
{
    json_t *ours = json_object_get(stage->context, "scheme"), *its = json_object_get(unit->attrs, "scheme");
    if (json_is_true(json_object_get(stage->context, "replaces_scheme")))
        return json_object_set(unit->attrs, "scheme", ours) < 0 ? qp_fail_memory(err, 0, "a scheme") : 0;
    if (!ours || !its || json_object_get(ours, "budget") || json_equal(ours, its))
        return 0;
    return qp_fail(
        err, QP_ERR_STAGE,
        "port %s: the model unit has scheme `%s`, but this stage works for `%s`: a stage before it changed the "
        "scheme, or did not put context.scheme in its place where context.replaces_scheme says so",
        stage->port ? stage->port : "in", scheme_name(its), scheme_name(ours));
}

int qp_stage_process(struct qp_stage *stage, struct qp_unit *unit, struct qp_error *err)
{
    int r = unit && unit->kind == QP_UNIT_MODEL ? settle_scheme(stage, unit, err) : 0;
    if (r < 0) {
        qp_unit_free(unit);
        return r;
    }
    return qp_json_check(qp_operations_check(stage->desc->process(stage, stage->state, unit, err), err), err);
}

void qp_stage_end(struct qp_stage *stage)
{
    if (stage->state && stage->desc->close)
        stage->desc->close(stage, stage->state);
    if (stage->model)
        qp_model_close(stage->model);
    free(stage->state);
    stage->state = NULL;
    stage->model = NULL;
}

/* Statistics are called BLOCK.SITE.STATISTIC. */
static void drop_statistics(const struct qp_stage *stage, struct qp_unit *unit)
{
    for (size_t i = unit->count; unit->kind == QP_UNIT_BLOCK && i-- > 0;) {
        const char *word = strrchr(unit->tensors[i]->name, '.');
        if (word && qp_stage_drops(stage, word + 1))
            qp_unit_remove(unit, unit->tensors[i]->name);
    }
}

int qp_stage_emit(struct qp_stage *stage, const char *port, struct qp_unit *unit, struct qp_error *err)
{
    int index = qp_port_index(stage->desc->outputs, port), r = qp_operations_check(0, err);
    if (r < 0) {
        qp_unit_free(unit);
        return r;
    }
    if (index < 0) {
        qp_unit_free(unit);
        return qp_fail(err, QP_ERR_STAGE, "stage %s has no output port %s", stage->desc->name,
                       port ? port : "that is the only one");
    }
    drop_statistics(stage, unit);
    return stage->around->emit(stage->around_context, (size_t)index, unit, err);
}

int qp_stage_pass(struct qp_stage *stage, struct qp_unit *unit, int r, struct qp_error *err)
{
    if (r == 0)
        return qp_stage_emit(stage, NULL, unit, err);
    qp_unit_free(unit);
    return r;
}

const char *qp_stage_port(const struct qp_stage *stage)
{
    return stage->port;
}

bool qp_stage_connected(const struct qp_stage *stage, const char *port)
{
    int index = qp_port_index(stage->desc->inputs, port);
    return index >= 0 && (stage->connected >> index & 1);
}

const struct qp_allocator *qp_stage_allocator(struct qp_stage *stage)
{
    return stage->allocator;
}

void qp_stage_trim(struct qp_stage *stage)
{
    if (stage->allocator && stage->allocator->trim)
        stage->allocator->trim(stage->allocator->context);
}

const struct qp_kernels *qp_stage_kernels(struct qp_stage *stage)
{
    return stage->kernels;
}

int qp_stage_threads(const struct qp_stage *stage)
{
    return stage->threads;
}

static bool has_word(const json_t *words, const char *word)
{
    for (size_t i = 0; i < json_array_size(words); i++) {
        const char *one = json_string_value(json_array_get(words, i));
        if (one && strcmp(one, word) == 0)
            return true;
    }
    return false;
}

bool qp_stage_wants(const struct qp_stage *stage, const char *what)
{
    return has_word(stage->wants, what);
}

bool qp_stage_drops(const struct qp_stage *stage, const char *statistic)
{
    return has_word(stage->drops, statistic);
}

const json_t *qp_stage_context(const struct qp_stage *stage)
{
    return stage->context;
}

const char *qp_stage_scratch(const struct qp_stage *stage)
{
    return stage->scratch;
}

bool qp_stage_cancelled(const struct qp_stage *stage)
{
    return stage->around->cancelled(stage->around_context) || qp_failure_is_set();
}

void qp_stage_progress(struct qp_stage *stage, int64_t done, int64_t total)
{
    stage->around->progress(stage->around_context, done, total);
}

void qp_stage_report(struct qp_stage *stage, const char *key, json_t *value)
{
    unsigned lost = qp_json_not_finite();
    if (lost > 0)
        qp_stage_warn(stage, "metric-not-finite", key, "%u %s not finite; null stands in the report", lost,
                      lost > 1 ? "figures are" : "figure is");
    if (value)
        stage->around->report(stage->around_context, key, value);
    else
        qp_stage_warn(stage, "report-lost", key, "the stage could not build the value");
}

void qp_stage_warn(struct qp_stage *stage, const char *code, const char *where, const char *format, ...)
{
    char message[QP_ERROR_SIZE], place[WHERE];
    va_list args;
    va_start(args, format);
    qp_utf8_format(message, sizeof message, format, args);
    va_end(args);
    qp_utf8_clean(where ? where : "", place, sizeof place);
    stage->around->warn(stage->around_context, code, place, message);
}

void qp_stage_log(struct qp_stage *stage, enum qp_level level, const char *format, ...)
{
    char message[QP_ERROR_SIZE];
    va_list args;
    va_start(args, format);
    qp_utf8_format(message, sizeof message, format, args);
    va_end(args);
    stage->around->log(stage->around_context, level, message);
}
