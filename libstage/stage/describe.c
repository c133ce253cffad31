#include "libstage/stage/internal.h"
#include "libstage/wire/control.h"

static const char *const type_names[] = {"bool", "int", "float", "string", "percent"};

static json_t *words(const char *const *list)
{
    json_t *array = json_array();
    for (; list && *list; list++)
        json_array_append_new(array, json_string(*list));
    return array;
}

static json_t *text(const char *value)
{
    return value ? json_string(value) : json_null();
}

static json_t *describe_ports(const struct qp_port *ports, bool inputs)
{
    json_t *array = json_array();
    for (; ports && ports->name; ports++) {
        json_t *port = json_pack("{s:s, s:o, s:o, s:b, s:s*}", "name", ports->name, inputs ? "needs" : "provides",
                                 words(inputs ? ports->needs : ports->provides), "help", text(ports->help), "optional",
                                 ports->optional, "was", ports->was);
        if (inputs)
            json_object_update_new(
                port, json_pack("{s:b, s:o}", "feedback", ports->feedback, "collects", words(ports->collects)));
        json_array_append_new(array, port);
    }
    return array;
}

static json_t *describe_param(const struct qp_param *param)
{
    bool ranged = param->min != 0 || param->max != 0;
    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:s*}", "name", param->name, "type", type_names[param->type],
                     "default", text(param->fallback), "min", ranged ? json_real(param->min) : json_null(), "max",
                     ranged ? json_real(param->max) : json_null(), "choices",
                     param->choices ? words(param->choices) : json_null(), "help", text(param->help), "was",
                     param->was);
}

static json_t *describe_params(const struct qp_param *params)
{
    json_t *array = json_array();
    for (; params && params->name; params++)
        json_array_append_new(array, describe_param(params));
    return array;
}

static json_t *describe_needs(const struct qp_need *needs)
{
    json_t *array = json_array();
    for (; needs && needs->what; needs++)
        json_array_append_new(array, json_pack("{s:s, s:o, s:o, s:o}", "what", needs->what, "param", text(needs->param),
                                               "value", text(needs->value), "scheme", text(needs->scheme)));
    return array;
}

static json_t *describe_holds(int holds)
{
    return holds == QP_HOLDS_ALL ? json_string("all") : json_integer(holds);
}

json_t *qp_stage_describe(const struct qp_stage_desc *desc)
{
    return json_pack("{s:i, s:s, s:o, s:i, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b, s:o, s:b, s:b, s:o*}",
                     "quantpipe", 1, "name", desc->name, "summary", text(desc->summary), "version", desc->version,
                     "protocol", QP_PROTOCOL_VERSION, "inputs", describe_ports(desc->inputs, true), "outputs",
                     describe_ports(desc->outputs, false), "params", describe_params(desc->params), "needs",
                     describe_needs(desc->needs), "collects", words(desc->collects), "forms", words(desc->forms),
                     "data", text(desc->data), "data_optional", desc->data_optional, "stateful", desc->stateful,
                     "holds", describe_holds(desc->holds), "copies", desc->copies, "estimates", desc->estimate != NULL,
                     "uses", desc->uses ? words(desc->uses) : NULL);
}
