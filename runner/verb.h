/* Verbs of the command line: each is a file in runner/ that ends with its const struct qp_verb. */
#ifndef QUANTPIPE_RUNNER_VERB_H
#define QUANTPIPE_RUNNER_VERB_H

#include <stdbool.h>
#include <stddef.h>
#include "libstage/base/json.h"

#include "libstage/base/error.h"

#define QP_MAX_GIVEN 128

struct qp_option {
    const char *name;     /* without the dashes */
    const char *argument; /* what it takes, for the help; NULL: nothing */
    const char *help;
};

struct qp_args {
    int argc; /* the whole command line */
    char **argv;
    struct {
        const struct qp_option *option;
        const char *value; /* NULL for an option without argument */
    } given[QP_MAX_GIVEN];
    size_t given_count;
    const char *words[4]; /* what is no option */
    size_t word_count;
};

struct qp_verb {
    const char *name;
    const char *summary;
    const char *usage; /* its words, for the help: "[PIPELINE]" */
    size_t min_words, max_words;
    const struct qp_option *options[2]; /* tables that end with a NULL name; NULL where there is none */
    int (*run)(const struct qp_args *args, struct qp_error *err);
};

extern const struct qp_verb qp_verb_run, qp_verb_check, qp_verb_plan, qp_verb_stages, qp_verb_schemes, qp_verb_inspect,
    qp_verb_evaluate, qp_verb_advise, qp_verb_doctor, qp_verb_init;

/* `--json`, for verbs whose answer a program may read. */
extern const struct qp_option qp_json_option[];

/* Sorts argv[2..] into options and words. QP_ERR_USAGE names what is wrong and the nearest option. */
int qp_args_parse(const struct qp_verb *verb, int argc, char **argv, struct qp_args *out, struct qp_error *err);

/* The value of an option that was given last; "" for one without argument; NULL when it was not given. */
const char *qp_arg(const struct qp_args *args, const char *name);

/* A whole number given with an option, `fallback` when it was not. */
int qp_arg_integer(const struct qp_args *args, const char *name, long long min, long long max, long long fallback,
                   long long *out, struct qp_error *err);

/* Prints a value as JSON, or an error when stdout is gone. Takes the value over. */
int qp_print_json(json_t *value, struct qp_error *err);

#endif
