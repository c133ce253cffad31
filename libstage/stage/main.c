/* The command line of a stage. */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libstage/stage/estimate.h"
#include "libstage/stage/internal.h"

/* Arrays from this size on are mapped on their own, so that what is freed goes back at once. With glibc's sliding
 * threshold they come from the heap after a while, where an aligned one does not fit into the gap that the one before
 * it left: a stage grew by its largest tensors with every block. */
#define MAPPED_ALONE (1 << 20)

/* Smaller ones stay at the end of the heap until the unit is done (trim_heap), or an operation would fetch its pages
 * anew each time. */
#define TRIMMED_ALONE (64 << 20)

struct command {
    const char *control, *instance, *replica;
};

static int usage(const struct qp_stage_desc *desc, const char *what, const char *value)
{
    fprintf(stderr, "%s: %s%s; see %s --help\n", desc->name, what, value, desc->name);
    return -QP_ERR_USAGE;
}

/* Takes the value over. */
static int print_json(json_t *value)
{
    bool good = value && json_dumpf(value, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) == 0;
    printf("\n");
    json_decref(value);
    return good && fflush(stdout) == 0 ? 0 : -QP_ERR_STAGE;
}

static int print_estimate(const struct qp_stage_desc *desc)
{
    struct qp_error err;
    json_error_t at;
    json_t *answer, *question = json_loadf(stdin, JSON_REJECT_DUPLICATES, &at);
    int r = question ? qp_stage_estimate(desc, question, &answer, &err)
                     : qp_fail(&err, QP_ERR_INPUT, "stdin has no valid JSON (line %d, column %d: %s)", at.line,
                               at.column, at.text);
    json_decref(question);
    if (r == 0)
        return print_json(answer);
    fprintf(stderr, "%s --estimate: %s\n", desc->name, err.message);
    return -r;
}

/* Names become routing ids, file names and parts of messages. */
static bool is_name(const char *text)
{
    size_t n = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-@");
    return n > 0 && n < 64 && !text[n];
}

static int live(const struct qp_stage_desc *desc, const struct command *command)
{
    if (!command->control || !command->instance || !command->replica)
        return usage(desc, "--control, --instance and --replica are needed", "");
    if (!is_name(command->instance))
        return usage(desc, "not an instance name: ", command->instance);
    char *end;
    errno = 0;
    long replica = strtol(command->replica, &end, 10);
    if (errno != 0 || *end || end == command->replica || replica < 0 || replica > 9999)
        return usage(desc, "not the number of a replica: ", command->replica);
#ifdef M_MMAP_THRESHOLD
    mallopt(M_MMAP_THRESHOLD, MAPPED_ALONE);
    mallopt(M_TRIM_THRESHOLD, TRIMMED_ALONE);
#endif
    return qp_stage_live(desc, command->control, command->instance, (int)replica);
}

int qp_stage_main(const struct qp_stage_desc *desc, int argc, char **argv)
{
    static const struct option options[] = {
        {"control", required_argument, NULL, 'c'}, {"instance", required_argument, NULL, 'i'},
        {"replica", required_argument, NULL, 'r'}, {"help", no_argument, NULL, 'h'},
        {"describe", no_argument, NULL, 'd'},      {"estimate", no_argument, NULL, 'e'},
        {"version", no_argument, NULL, 'v'},       {NULL, 0, NULL, 0},
    };
    struct command command = {0};
    int option;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            command.control = optarg;
            break;
        case 'i':
            command.instance = optarg;
            break;
        case 'r':
            command.replica = optarg;
            break;
        case 'h':
            qp_stage_print_help(desc);
            return 0;
        case 'd':
            return print_json(qp_stage_describe(desc));
        case 'e':
            return print_estimate(desc);
        case 'v':
            printf("%s %d (quantpipe %s)\n", desc->name, desc->version, QUANTPIPE_VERSION);
            return 0;
        default:
            return -QP_ERR_USAGE;
        }
    }
    return optind < argc ? usage(desc, "not an option: ", argv[optind]) : live(desc, &command);
}
