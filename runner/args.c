#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/base/words.h"
#include "runner/subcommand.h"

const struct qp_option qp_json_option[] = {{"json", NULL, "answer in JSON"}, {0}};

static const struct qp_option *find_option(const struct qp_subcommand *subcommand, const char *name, size_t length)
{
    for (size_t t = 0; t < 3; t++)
        for (const struct qp_option *o = subcommand->options[t]; o && o->name; o++)
            if (strlen(o->name) == length && strncmp(o->name, name, length) == 0)
                return o;
    return NULL;
}

static int unknown_option(const struct qp_subcommand *subcommand, const char *text, struct qp_error *err)
{
    const char *names[64];
    char name[128];
    size_t count = 0;
    for (size_t t = 0; t < 3; t++)
        for (const struct qp_option *o = subcommand->options[t]; o && o->name && count < 64; o++)
            names[count++] = o->name;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(text + 2, "="), text + 2);
    const char *near = qp_nearest(name, names, count);
    return qp_fail(err, QP_ERR_USAGE, "%s has no option %.80s%s%s%s; `quantpipe %s --help` lists them",
                   subcommand->name, text, near ? "; did you mean --" : "", near ? near : "", near ? "?" : "",
                   subcommand->name);
}

/* Takes argv[i], and argv[i + 1] when that is its value; returns how many, or a negative code. */
static int take_option(const struct qp_subcommand *subcommand, char **argv, int left, struct qp_args *out,
                       struct qp_error *err)
{
    const char *text = argv[0], *equals = strchr(text, '=');
    size_t length = equals ? (size_t)(equals - text) - 2 : strlen(text) - 2;
    const struct qp_option *o = strncmp(text, "--", 2) == 0 ? find_option(subcommand, text + 2, length) : NULL;
    if (!o)
        return unknown_option(subcommand, text, err);
    if (out->given_count == QP_MAX_GIVEN)
        return qp_fail(err, QP_ERR_USAGE, "more than %d options", QP_MAX_GIVEN);
    if (!o->value && equals)
        return qp_fail(err, QP_ERR_USAGE, "--%s takes no value; found %s", o->name, text);
    if (o->value && !equals && left < 2)
        return qp_fail(err, QP_ERR_USAGE, "--%s is the last argument; expected %s after it", o->name, o->value);
    out->given[out->given_count].option = o;
    out->given[out->given_count++].value = !o->value ? "" : equals ? equals + 1 : argv[1];
    return o->value && !equals ? 2 : 1;
}

int qp_args_parse(const struct qp_subcommand *subcommand, int argc, char **argv, struct qp_args *out,
                  struct qp_error *err)
{
    *out = (struct qp_args){.argc = argc, .argv = argv};
    bool arguments_only = false;
    for (int i = 2; i < argc;) {
        int used = 1;
        if (!arguments_only && strcmp(argv[i], "--") == 0)
            arguments_only = true;
        else if (!arguments_only && argv[i][0] == '-' && argv[i][1])
            used = take_option(subcommand, argv + i, argc - i, out, err);
        else if (out->argument_count < subcommand->max_arguments)
            out->arguments[out->argument_count++] = argv[i];
        else
            return qp_fail(err, QP_ERR_USAGE, "%s: one argument too many: `%s`; usage: quantpipe %s %s",
                           subcommand->name, argv[i], subcommand->name, subcommand->usage);
        if (used < 0)
            return used;
        i += used;
    }
    if (out->argument_count < subcommand->min_arguments)
        return qp_fail(err, QP_ERR_USAGE, "%s: an argument is missing; usage: quantpipe %s %s", subcommand->name,
                       subcommand->name, subcommand->usage);
    return 0;
}

const char *qp_arg(const struct qp_args *args, const char *name)
{
    const char *value = NULL;
    for (size_t i = 0; i < args->given_count; i++)
        if (strcmp(args->given[i].option->name, name) == 0)
            value = args->given[i].value;
    return value;
}

int qp_arg_integer(const struct qp_args *args, const char *name, long long min, long long max, long long fallback,
                   long long *out, struct qp_error *err)
{
    const char *text = qp_arg(args, name);
    char *end;
    *out = fallback;
    if (!text)
        return 0;
    errno = 0;
    *out = strtoll(text, &end, 10);
    if (errno || end == text || *end || *out < min || *out > max)
        return qp_fail(err, QP_ERR_USAGE, "--%s is `%s`; expected a whole number from %lld to %lld", name, text, min,
                       max);
    return 0;
}

int qp_print_json(json_t *value, struct qp_error *err)
{
    int r = qp_json_check(0, err);
    if (r == 0 && !value)
        r = qp_fail_memory(err, 0, "the answer");
    else if (r == 0 && (json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) < 0 ||
                        putchar('\n') == EOF || fflush(stdout) != 0))
        r = qp_fail_errno(err, QP_ERR_STAGE, "stdout: cannot write");
    json_decref(value);
    return r;
}
