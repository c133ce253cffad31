/* `quantpipe schemes` */
#include <stdio.h>
#include <string.h>

#include "libstage/tensor/scheme/scheme.h"
#include "runner/subcommand.h"

/* "a, b" as a list. */
static json_t *name_list(const char *names)
{
    json_t *list = json_array();
    for (const char *p = names; *p; p += strcspn(p, ", "), p += strspn(p, ", "))
        json_array_append_new(list, json_stringn(p, strcspn(p, ", ")));
    return list;
}

/* "search.method=awq ..." as what --set takes. */
static json_t *settings(const char *parameters)
{
    json_t *list = json_array();
    for (const char *p = parameters; *p; p += strcspn(p, " "), p += strspn(p, " ")) {
        int stage = (int)strcspn(p, "."), rest = (int)strcspn(p + stage + 1, " ");
        json_array_append_new(list, json_sprintf("stages.%.*s.with.%.*s", stage, p, rest, p + stage + 1));
    }
    return list;
}

static json_t *method_list(const char *preset)
{
    json_t *list = json_array();
    for (const struct qp_preset_method *m = qp_preset_methods(); m->names; m++)
        if (strcmp(m->preset, preset) == 0)
            json_array_append_new(
                list, json_pack("{s:o, s:o}", "modelopt", name_list(m->names), "set", settings(m->parameters)));
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
    json_t *absent = json_array();
    for (const struct qp_preset_absence *a = qp_preset_absences(); a->peer; a++)
        json_array_append_new(
            absent, json_pack("{s:s, s:o, s:s}", "of", a->peer, "names", name_list(a->names), "reason", a->reason));
    return json_pack("{s:o, s:o}", "schemes", list, "absent", absent);
}

#define INDENT 39

/* A list in lines of at most 120 columns, after `title`. */
static void print_list(const char *title, const char *list, const char *separators)
{
    int column = printf("%*s%s", INDENT, "", title);
    for (const char *p = list; *p; p += strspn(p, separators)) {
        int length = (int)strcspn(p, " "); /* with its comma */
        if (column + 1 + length > 120)
            column = printf("\n%*s", INDENT + 2, "") - 1;
        column += printf(" %.*s", length, p);
        p += length;
    }
    putchar('\n');
}

/* One row, modelopt's names below it, and what its presets with a method take. */
static void print_preset(const struct qp_preset *preset)
{
    printf("%-21s  %-14s  %s\n", preset->name, preset->llm_compressor, preset->summary);
    if (*preset->modelopt)
        print_list("modelopt:", preset->modelopt, ", ");
    for (const struct qp_preset_method *m = qp_preset_methods(); m->names; m++)
        if (strcmp(m->preset, preset->name) == 0) {
            print_list("modelopt:", m->names, ", ");
            print_list("  by", m->parameters, " ");
        }
}

static int schemes(const struct qp_args *args, struct qp_error *err)
{
    if (qp_arg(args, "json"))
        return qp_print_json(as_json(), err);
    printf("%-21s  %-14s  %s\n", "scheme", "llm-compressor", "what it is");
    for (int i = 0; i < 120; i++)
        putchar('-');
    putchar('\n');
    for (const struct qp_preset *p = qp_presets(); p->name; p++)
        print_preset(p);
    printf("\nwithout an equivalent\n");
    for (const struct qp_preset_absence *a = qp_preset_absences(); a->peer; a++) {
        char title[32];
        snprintf(title, sizeof title, "%s:", a->peer);
        print_list(title, a->names, ", ");
        print_list("  because", a->reason, " ");
    }
    printf("\nAny of these names is a scheme; -kv-fp8 or -kv-int8 after it adds a KV cache in that format.\n"
           "search.method=awq stands for --set stages.search.with.method=awq.\n");
    return 0;
}

const struct qp_subcommand qp_subcommand_schemes = {
    .name = "schemes",
    .summary = "list the presets of number formats to quantize to",
    .usage = "",
    .options = {qp_json_option},
    .run = schemes,
};
