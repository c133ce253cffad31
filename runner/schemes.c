/* `quantpipe schemes` */
#include <stdio.h>
#include <string.h>

#include "libstage/tensor/scheme.h"
#include "runner/verb.h"

/* "a, b" as a list. */
static json_t *name_list(const char *names)
{
    json_t *list = json_array();
    for (const char *p = names; *p; p += strcspn(p, ", "), p += strspn(p, ", "))
        json_array_append_new(list, json_stringn(p, strcspn(p, ", ")));
    return list;
}

static json_t *method_list(const char *preset)
{
    json_t *list = json_array();
    for (const struct qp_preset_method *m = qp_preset_methods(); m->names; m++)
        if (strcmp(m->preset, preset) == 0)
            json_array_append_new(
                list, json_pack("{s:o, s:s}", "modelopt", name_list(m->names), "parameters", m->parameters));
    return list;
}

static json_t *as_json(void)
{
    json_t *list = json_array();
    for (const struct qp_preset *p = qp_presets(); p->name; p++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "name", p->name, "summary", p->summary,
                                              "llm_compressor", name_list(p->llm_compressor), "modelopt",
                                              name_list(p->modelopt), "methods", method_list(p->name), "mapping",
                                              json_loads(p->mapping, 0, NULL)));
    return json_pack("{s:o}", "schemes", list);
}

static void print_rule(void)
{
    for (int i = 0; i < 118; i++)
        putchar('-');
    putchar('\n');
}

/* One row, and below it one for each method that modelopt has a preset for. */
static void print_preset(const struct qp_preset *preset)
{
    printf("%-21s  %-14s  %-s\n", preset->name, preset->llm_compressor, preset->summary);
    if (*preset->modelopt)
        printf("%-21s  %-14s  modelopt: %s\n", "", "", preset->modelopt);
    for (const struct qp_preset_method *m = qp_preset_methods(); m->names; m++)
        if (strcmp(m->preset, preset->name) == 0)
            printf("%-21s  %-14s  modelopt: %s: --set stages.%s\n", "", "", m->names, m->parameters);
}

static int schemes(const struct qp_args *args, struct qp_error *err)
{
    if (qp_arg(args, "json"))
        return qp_print_json(as_json(), err);
    printf("%-21s  %-14s  %s\n", "scheme", "llm-compressor", "what it is; symmetric unless it says otherwise");
    print_rule();
    for (const struct qp_preset *p = qp_presets(); p->name; p++)
        print_preset(p);
    return 0;
}

const struct qp_verb qp_verb_schemes = {
    .name = "schemes",
    .summary = "list the presets of number formats to quantize to",
    .usage = "",
    .options = {qp_json_option},
    .run = schemes,
};
