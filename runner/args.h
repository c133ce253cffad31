/* Options and arguments of the command line. */
#ifndef QUANTPIPE_RUNNER_ARGS_H
#define QUANTPIPE_RUNNER_ARGS_H

#include <stdbool.h>
#include <stddef.h>

#include "libstage/base/error.h"
#include "libstage/base/json.h"

#define QP_MAX_GIVEN 128

struct qp_subcommand;

struct qp_option {
    const char *name;  /* without the dashes */
    const char *value; /* what it takes, for the help; NULL: nothing */
    const char *help;
};

struct qp_args {
    int argc; /* the whole command line */
    char **argv;
    struct {
        const struct qp_option *option;
        const char *value; /* NULL for an option without one */
    } given[QP_MAX_GIVEN];
    size_t given_count;
    const char *arguments[4]; /* what is no option */
    size_t argument_count;
};

/* `--json`, for subcommands whose answer a program may read. */
extern const struct qp_option qp_json_option[];

/* Sorts argv[2..] into options and arguments. QP_ERR_USAGE names what is wrong and the nearest option. */
int qp_args_parse(const struct qp_subcommand *subcommand, int argc, char **argv, struct qp_args *out,
                  struct qp_error *err);

/* The value of an option that was given last; "" for one without value; NULL when it was not given. */
const char *qp_arg(const struct qp_args *args, const char *name);

/* A whole number given with an option, `fallback` when it was not. */
int qp_arg_integer(const struct qp_args *args, const char *name, long long min, long long max, long long fallback,
                   long long *out, struct qp_error *err);

/* Prints a value as JSON, or an error when stdout is gone. Takes the value over. */
int qp_print_json(json_t *value, struct qp_error *err);

#endif
