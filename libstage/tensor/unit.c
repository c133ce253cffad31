#include "libstage/tensor/unit.h"

#include <stdlib.h>
#include <string.h>

const char *qp_unit_kind_name(enum qp_unit_kind kind)
{
    switch (kind) {
    case QP_UNIT_MODEL:
        return "model";
    case QP_UNIT_BLOCK:
        return "block";
    case QP_UNIT_END:
        return "end";
    }
    return "?";
}

int qp_unit_new(enum qp_unit_kind kind, int64_t seq, struct qp_unit **out, struct qp_error *err)
{
    struct qp_unit *unit = calloc(1, sizeof *unit);
    if (unit)
        unit->attrs = json_object();
    if (!unit || !unit->attrs) {
        free(unit);
        return qp_fail_memory(err, sizeof *unit, "a unit");
    }
    unit->kind = kind;
    unit->seq = seq;
    *out = unit;
    return 0;
}

int64_t qp_unit_block(const struct qp_unit *unit)
{
    const json_t *block = json_object_get(unit->attrs, "block");
    if (unit->kind != QP_UNIT_BLOCK)
        return -1;
    return json_is_integer(block) && json_integer_value(block) >= 0 ? json_integer_value(block) : unit->seq;
}

void qp_unit_free(struct qp_unit *unit)
{
    if (!unit)
        return;
    for (size_t i = 0; i < unit->count; i++)
        qp_tensor_unref(unit->tensors[i]);
    free(unit->tensors);
    qp_strings_clear(&unit->names);
    json_decref(unit->attrs);
    free(unit);
}

/* From this many tensors on, names are found by hash. */
#define MANY 32

static size_t index_of(const struct qp_unit *unit, const char *name)
{
    size_t i = 0;
    if (unit->names.count == unit->count && unit->count > 0) {
        int64_t at = qp_strings_find(&unit->names, name, strlen(name));
        return at < 0 ? unit->count : (size_t)at;
    }
    while (i < unit->count && strcmp(unit->tensors[i]->name, name) != 0)
        i++;
    return i;
}

struct qp_tensor *qp_unit_find(const struct qp_unit *unit, const char *name)
{
    size_t i = index_of(unit, name);
    return i < unit->count ? unit->tensors[i] : NULL;
}

/* Names the tensors that have come since the names were complete, all of them after one was taken out. */
static int name_tensors(struct qp_unit *unit, struct qp_error *err)
{
    for (size_t i = unit->names.count; i < unit->count; i++)
        qp_strings_add(&unit->names, unit->tensors[i]->name, strlen(unit->tensors[i]->name), (int64_t)i);
    return unit->names.failed ? qp_fail_memory(err, unit->count, "the names of a unit's tensors") : 0;
}

int qp_unit_put(struct qp_unit *unit, struct qp_tensor *tensor, struct qp_error *err)
{
    size_t i = index_of(unit, tensor->name);
    if (i < unit->count) {
        qp_tensor_unref(unit->tensors[i]);
        unit->tensors[i] = tensor;
        return 0;
    }
    if (unit->count == unit->capacity) {
        size_t capacity = unit->capacity ? 2 * unit->capacity : 16;
        struct qp_tensor **tensors = realloc(unit->tensors, capacity * sizeof(struct qp_tensor *));
        if (!tensors) {
            qp_tensor_unref(tensor);
            return qp_fail_memory(err, capacity * sizeof(struct qp_tensor *), "a unit's tensors");
        }
        unit->tensors = tensors;
        unit->capacity = capacity;
    }
    unit->tensors[unit->count++] = tensor;
    return unit->count >= MANY ? name_tensors(unit, err) : 0;
}

void qp_unit_remove(struct qp_unit *unit, const char *name)
{
    size_t i = index_of(unit, name);
    if (i == unit->count)
        return;
    qp_strings_clear(&unit->names);
    qp_tensor_unref(unit->tensors[i]);
    memmove(&unit->tensors[i], &unit->tensors[i + 1], (--unit->count - i) * sizeof(struct qp_tensor *));
}

int qp_unit_copy(const struct qp_unit *unit, struct qp_unit **out, struct qp_error *err)
{
    struct qp_unit *copy;
    int r = qp_unit_new(unit->kind, unit->seq, &copy, err);
    if (r < 0)
        return r;
    if (json_object_update(copy->attrs, unit->attrs) < 0)
        r = qp_fail_memory(err, 0, "a unit's attributes");
    for (size_t i = 0; r == 0 && i < unit->count; i++)
        r = qp_unit_put(copy, qp_tensor_ref(unit->tensors[i]), err);
    if (r < 0) {
        qp_unit_free(copy);
        return r;
    }
    *out = copy;
    return 0;
}
