/* `quantpipe schemes` */
#include <stdio.h>

#include "libstage/tensor/scheme.h"
#include "runner/verb.h"

static json_t *as_json(void)
{
    json_t *list = json_array();
    for (const struct qp_preset *p = qp_presets(); p->name; p++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "name", p->name, "summary", p->summary, "aliases",
                                              p->aliases, "mapping", json_loads(p->mapping, 0, NULL)));
    return json_pack("{s:o}", "schemes", list);
}

static int schemes(const struct qp_args *args, struct qp_error *err)
{
    if (qp_arg(args, "json"))
        return qp_print_json(as_json(), err);
    for (const struct qp_preset *p = qp_presets(); p->name; p++)
        printf("%-12s %s\n%-12s also known as: %s\n%-12s the same as: scheme: %s\n\n", p->name, p->summary, "",
               p->aliases, "", p->mapping);
    return 0;
}

const struct qp_verb qp_verb_schemes = {
    .name = "schemes",
    .summary = "list the presets of number formats to quantize to",
    .usage = "",
    .options = {qp_json_option},
    .run = schemes,
};
