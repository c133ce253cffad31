/* The pipeline as it will run, for people and for whoever runs it again. */
#include <string.h>

#include "runner/pipeline/pipeline.h"
#include "runner/pipeline/yaml.h"

/* A descriptor has defaults as a user would write them. */
static json_t *default_of(const json_t *param)
{
    const char *text = json_string_value(json_object_get(param, "default"));
    const char *type = json_string_value(json_object_get(param, "type"));
    json_t *value = NULL;
    if (text && strcmp(type, "string") == 0)
        value = json_string(text);
    else if (text)
        qp_yaml_scalar(text, &value);
    return value;
}

json_t *qp_params_of(const struct qp_instance *in)
{
    json_t *params = json_object();
    size_t i;
    json_t *param;
    json_array_foreach(json_object_get(in->descriptor, "params"), i, param) {
        json_t *fallback = default_of(param);
        if (fallback)
            json_object_set_new(params, json_string_value(json_object_get(param, "name")), fallback);
    }
    json_object_update(params, in->params);
    return params;
}

static json_t *sources_of(const struct qp_pipeline *p, size_t index)
{
    json_t *from = json_object();
    for (size_t i = 0; i < p->edge_count; i++) {
        const struct qp_edge *e = &p->edges[i];
        char name[128];
        if (e->to != index)
            continue;
        json_t *source = json_sprintf("%s.%s", qp_base_name(&p->instances[e->from], name, sizeof name), e->output);
        json_object_set_new(from, e->input,
                            e->delay ? json_pack("{s:o, s:i}", "from", source, "delay", e->delay) : source);
    }
    return from;
}

static json_t *command_of(const struct qp_instance *in)
{
    json_t *arguments = json_array();
    for (char **argument = in->command; *argument; argument++)
        json_array_append_new(arguments, json_string(*argument));
    return arguments;
}

static json_t *instance_of(const struct qp_pipeline *p, size_t index)
{
    const struct qp_instance *in = &p->instances[index];
    json_t *place = json_pack("{s:i, s:s}", "replicas", 1, "device", "cpu");
    if (in->threads)
        json_object_set_new(place, "threads", json_integer(in->threads));
    if (in->memory)
        json_object_set_new(place, "memory", json_integer((json_int_t)in->memory));
    json_t *stage = json_pack("{s:o, s:o}", "with", qp_params_of(in), "place", place);
    if (in->source_count)
        json_object_set_new(stage, "from", sources_of(p, index));
    if (in->own)
        json_object_set_new(stage, "run", command_of(in));
    else
        json_object_set_new(stage, "use", json_string(in->use));
    return stage;
}

json_t *qp_pipeline_resolved(const struct qp_pipeline *pipeline)
{
    json_t *stages = json_object();
    char name[128];
    for (size_t i = 0; i < pipeline->count; i++)
        if (pipeline->instances[i].branch <= 0) /* copies of the other schemes are the same */
            json_object_set_new(stages, qp_base_name(&pipeline->instances[i], name, sizeof name),
                                instance_of(pipeline, i));
    json_t *memory = pipeline->memory ? json_integer((json_int_t)pipeline->memory) : NULL;
    return json_pack("{s:i, s:s, s:s, s:O, s:b, s:O, s:o, s:o*}", "quantpipe", QP_PIPELINE_VERSION, "model",
                     pipeline->model, "output", pipeline->output, "scheme", pipeline->scheme, "strict",
                     pipeline->strict, "data", pipeline->data, "stages", stages, "memory", memory);
}
