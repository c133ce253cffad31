/* Subcommands: each is a file in runner/commands/ that ends with its const struct qp_subcommand. */
#ifndef QUANTPIPE_RUNNER_SUBCOMMAND_H
#define QUANTPIPE_RUNNER_SUBCOMMAND_H

#include "runner/args.h"

struct qp_subcommand {
    const char *name;
    const char *summary;
    const char *usage; /* its arguments, for the help: "[PIPELINE]" */
    size_t min_arguments, max_arguments;
    const struct qp_option *options[3]; /* tables that end with a NULL name; NULL where there is none */
    int (*run)(const struct qp_args *args, struct qp_error *err);
};

extern const struct qp_subcommand qp_subcommand_run, qp_subcommand_check, qp_subcommand_plan, qp_subcommand_stages,
    qp_subcommand_schemes, qp_subcommand_inspect, qp_subcommand_evaluate, qp_subcommand_advise, qp_subcommand_doctor,
    qp_subcommand_init;

#endif
