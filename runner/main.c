/* The `quantpipe` command: finds the subcommand, runs it, prints what went wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/kernels.h"
#include "libstage/base/cleanup.h"
#include "libstage/base/words.h"
#include "libstage/tensor/operations.h"
#include "runner/subcommand.h"

static const struct qp_subcommand *const subcommands[] = {
    &qp_subcommand_run,     &qp_subcommand_check,   &qp_subcommand_plan,     &qp_subcommand_stages,
    &qp_subcommand_schemes, &qp_subcommand_inspect, &qp_subcommand_evaluate, &qp_subcommand_advise,
    &qp_subcommand_doctor,  &qp_subcommand_init};
#define SUBCOMMANDS (sizeof subcommands / sizeof *subcommands)

static int help(void)
{
    printf("quantpipe turns a language model into a quantized one: a YAML file wires stage processes, this runs them.\n"
           "\nusage: quantpipe SUBCOMMAND [ARGUMENTS] [--options]\n\n");
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        printf("  %-9s %s\n", subcommands[i]->name, subcommands[i]->summary);
    printf("\n`quantpipe SUBCOMMAND --help` tells more; `quantpipe --version` prints the version.\n"
           "exit codes: 0 done, 2 usage, 3 bad input, 4 a stage failed, 5 a quality gate failed, 6 no disk space or "
           "memory, 130 "
           "interrupted\n");
    return 0;
}

static int help_subcommand(const struct qp_subcommand *subcommand)
{
    printf("usage: quantpipe %s %s%s\n\n%s\n", subcommand->name, subcommand->usage,
           subcommand->options[0] ? " [--options]" : "", subcommand->summary);
    for (size_t t = 0; t < 3; t++)
        for (const struct qp_option *o = subcommand->options[t]; o && o->name; o++) {
            char left[64];
            snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
            printf("%s  %-22s %s\n", o == subcommand->options[0] ? "\n" : "", left, o->help);
        }
    return 0;
}

static const struct qp_subcommand *find_subcommand(const char *name)
{
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        if (strcmp(subcommands[i]->name, name) == 0)
            return subcommands[i];
    return NULL;
}

static int unknown_subcommand(const char *name, struct qp_error *err)
{
    const char *names[SUBCOMMANDS];
    for (size_t i = 0; i < SUBCOMMANDS; i++)
        names[i] = subcommands[i]->name;
    const char *near = qp_nearest(name, names, SUBCOMMANDS);
    return qp_fail(err, QP_ERR_USAGE, "there is no subcommand `%s`%s%s%s; `quantpipe help` lists them", name,
                   near ? "; did you mean `" : "", near ? near : "", near ? "`?" : "");
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int run_subcommand(const struct qp_subcommand *subcommand, int argc, char **argv, bool *json,
                          struct qp_error *err)
{
    struct qp_args args;
    int r = qp_args_parse(subcommand, argc, argv, &args, err);
    if (r < 0)
        return r;
    *json = qp_arg(&args, "json") != NULL;
    return qp_operations_check(subcommand->run(&args, err), err);
}

/* The one place that prints errors; one without a message is in what was printed already. */
static int report(int r, bool json, const struct qp_error *err)
{
    if (r < 0 && !*err->message)
        return -r;
    if (r < 0 && json) {
        struct qp_error ignored;
        qp_print_json(json_pack("{s:{s:i, s:s}}", "error", "code", -r, "message", err->message), &ignored);
    } else if (r < 0) {
        const char *red = isatty(2) ? "\033[1;31m" : "", *plain = isatty(2) ? "\033[0m" : "";
        fprintf(stderr, "%squantpipe: error:%s %s\n", red, plain, err->message);
    }
    return -r;
}

/* A name that no process would heed must not pass for a limit. */
static int check_cpu_level(struct qp_error *err)
{
    enum qp_cpu_level level;
    const char *name = getenv("QUANTPIPE_CPU");
    if (!name || qp_cpu_level_parse(name, &level))
        return 0;
    return qp_fail(err, QP_ERR_USAGE,
                   "environment variable QUANTPIPE_CPU: found `%s`, expected portable, avx2, avx512 or avx512_bf16",
                   name);
}

int main(int argc, char **argv)
{
    struct qp_error err = {0};
    bool json = false;
    const char *name = argc > 1 ? argv[1] : "--help";
    if (strcmp(name, "--version") == 0)
        return printf("quantpipe %s\n", QUANTPIPE_VERSION) < 0;
    const struct qp_subcommand *subcommand = find_subcommand(strcmp(name, "help") == 0 && argc > 2 ? argv[2] : name);
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (strcmp(name, "help") == 0 && argc == 2))
        return help();
    if (!subcommand)
        return report(unknown_subcommand(strcmp(name, "help") == 0 ? argv[2] : name, &err), false, &err);
    if (strcmp(name, "help") == 0 || asks_help(argc, argv))
        return help_subcommand(subcommand);
    int r = check_cpu_level(&err);
    if (r == 0)
        r = run_subcommand(subcommand, argc, argv, &json, &err); /* before `json` is read */
    return report(r, json, &err);
}
