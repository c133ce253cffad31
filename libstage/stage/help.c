#include <stdio.h>

#include "libstage/stage/internal.h"

static const char *const placeholders[] = {"true|false", "INT", "NUMBER", "TEXT", "PERCENT"};

static void print_words(const char *lead, const char *const *list, const char *separator)
{
    for (; list && *list; list++) {
        printf("%s%s", lead, *list);
        lead = separator;
    }
}

static void print_ports(const char *title, const struct qp_port *ports)
{
    if (qp_port_count(ports) == 0)
        return;
    printf("\n%s\n", title);
    for (; ports->name; ports++) {
        printf("  %-14s %s", ports->name, ports->help ? ports->help : "");
        print_words("; needs ", ports->needs, ", ");
        print_words("; provides ", ports->provides, ", ");
        printf("%s", ports->optional ? " (optional)" : "");
        printf("\n");
    }
}

static void print_param(const struct qp_param *param)
{
    printf("  %s: ", param->name);
    if (param->choices)
        print_words("", param->choices, "|");
    else
        printf("%s", placeholders[param->type]);
    printf("\n      %s", param->help ? param->help : "");
    if (param->min != 0 || param->max != 0)
        printf(" [%g to %g]", param->min, param->max);
    if (param->fallback)
        printf(" (default %s)", param->fallback);
    printf("\n");
}

void qp_stage_print_help(const struct qp_stage_desc *desc)
{
    printf("%s - %s\n\n"
           "A stage of quantpipe, started by `quantpipe run`:\n"
           "  %s --control ENDPOINT --instance NAME --replica N\n"
           "  %s --help | --describe | --version\n"
           "  %s --estimate    answers on stdout what it would do and hold, for a question on stdin\n",
           desc->name, desc->summary ? desc->summary : "", desc->name, desc->name, desc->name);
    print_ports("Inputs", desc->inputs);
    print_ports("Outputs", desc->outputs);
    if (desc->params && desc->params->name)
        printf("\nParameters (`with:` in a pipeline)\n");
    for (const struct qp_param *param = desc->params; param && param->name; param++)
        print_param(param);
    if (desc->data)
        printf("\nReads the pipeline's data.%s%s.\n", desc->data, desc->data_optional ? ", if there is any" : "");
}
