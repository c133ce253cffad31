#include "libstage/stage/estimate.h"

#include <math.h>
#include <stdlib.h>

#include "libstage/base/memory.h"
#include "libstage/network/model_unit.h"
#include "libstage/stage/work_json.h"

/* ---- answers ---- */

json_t *qp_memory_json(const struct qp_estimate *e)
{
    return json_pack("{s:I, s:I, s:I}", "fixed_bytes", (json_int_t)e->fixed_bytes, "block_bytes",
                     (json_int_t)e->block_bytes, "emitted_bytes", (json_int_t)e->emitted_bytes);
}

static json_t *answer_of(const struct qp_estimate *e)
{
    json_t *provides = json_array();
    for (int i = 0; i < QP_PROVIDES_MAX && e->provides[i]; i++)
        json_array_append_new(provides, json_string(e->provides[i]));
    return json_pack("{s:i, s:o, s:o, s:o}", "quantpipe", 1, "work",
                     e->work_known ? qp_work_json(&e->work) : json_null(), "memory",
                     e->memory_known ? qp_memory_json(e) : json_null(), "provides", provides);
}

static bool read_bytes(const json_t *memory, const char *key, double *out)
{
    const json_t *value = json_object_get(memory, key);
    *out = json_number_value(value);
    return json_is_number(value) && isfinite(*out) && *out >= 0;
}

void qp_estimate_from_json(const json_t *answer, struct qp_estimate *out)
{
    const json_t *work = json_object_get(answer, "work"), *memory = json_object_get(answer, "memory");
    *out = (struct qp_estimate){.work_known = json_is_object(work)};
    qp_work_from_json(work, &out->work);
    out->memory_known = read_bytes(memory, "fixed_bytes", &out->fixed_bytes) &&
                        read_bytes(memory, "block_bytes", &out->block_bytes) &&
                        read_bytes(memory, "emitted_bytes", &out->emitted_bytes);
}

/* ---- questions ---- */

static int64_t count_of(const json_t *question, const char *key)
{
    json_int_t count = json_integer_value(json_object_get(json_object_get(question, "text"), key));
    return count > 0 && count < (json_int_t)1 << 40 ? count : 0;
}

/* The question's `model` is what the model unit's attributes will be. */
static int open_model(const json_t *question, struct qp_model *model, struct qp_error *err)
{
    struct qp_unit *unit;
    json_t *attrs = json_object_get(question, "model");
    if (!json_is_object(attrs))
        return qp_fail(err, QP_ERR_INPUT, "no `model` in the question; see schemas/estimate.schema.json");
    int r = qp_unit_new(QP_UNIT_MODEL, 0, &unit, err);
    if (r < 0)
        return r;
    json_decref(unit->attrs);
    unit->attrs = json_incref(attrs);
    r = qp_model_open_any(unit, model, err);
    qp_unit_free(unit);
    return r;
}

static int estimate(const struct qp_stage_desc *desc, const json_t *question, const struct qp_model *model,
                    struct qp_estimate *out, struct qp_error *err)
{
    struct qp_task task = {.path = qp_model_string(model, "path"),
                           .arch = &model->arch,
                           .scheme = model->scheme,
                           .wants = json_object_get(question, "wants"),
                           .upstream = json_object_get(question, "upstream"),
                           .windows = count_of(question, "windows"),
                           .length = count_of(question, "length"),
                           .feedback = json_is_true(json_object_get(question, "feedback")),
                           .kernels = qp_kernels_open("cpu")};
    void *state = calloc(1, desc->state_size ? desc->state_size : 1);
    if (!state)
        return qp_fail_memory(err, desc->state_size, "the stage's state");
    int r = qp_params_parse(desc->params, json_object_get(question, "params"), state, err);
    if (r == 0)
        r = desc->estimate(&task, state, out, err);
    free(state);
    return r;
}

int qp_stage_estimate(const struct qp_stage_desc *desc, const json_t *question, json_t **out, struct qp_error *err)
{
    struct qp_estimate answer = {0};
    struct qp_model model = {0};
    int r = desc->estimate ? open_model(question, &model, err) : 0;
    if (r == 0 && desc->estimate)
        r = estimate(desc, question, &model, &answer, err);
    qp_model_close(&model);
    if (r < 0)
        return r;
    *out = answer_of(&answer);
    return *out ? 0 : qp_fail_memory(err, 0, "an answer");
}
