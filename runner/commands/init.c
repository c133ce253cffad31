/* `quantpipe init` */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/commands/init_stage.h"
#include "runner/pipeline/default.h"
#include "runner/subcommand.h"

static const struct qp_option language_option[] = {
    {"language", "c|python", "of stage NAME, a new folder with a stage, its test and a pipeline (python)"}, {0}};

static int write_pipeline(const char *path, struct qp_error *err)
{
    qp_auto_close int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST)
        return qp_fail(err, QP_ERR_INPUT, "%s: exists, and stays as it is; remove it, or name another file", path);
    if (fd < 0)
        return qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot be made", path);
    int r = qp_write_all(fd, qp_default_pipeline, qp_default_pipeline_size, path, err);
    if (r < 0)
        unlink(path);
    return r;
}

static int init(const struct qp_args *args, struct qp_error *err)
{
    const char *path = args->argument_count ? args->arguments[0] : QP_PIPELINE_FILE,
               *language = qp_arg(args, "language");
    if (args->argument_count == 2 && strcmp(path, "stage") == 0)
        return qp_init_stage(args->arguments[1], language ? language : "python", err);
    if (args->argument_count == 2 || language)
        return qp_fail(err, QP_ERR_USAGE,
                       "expected quantpipe init [FILE], or quantpipe init stage NAME [--language c|python]");
    int r = write_pipeline(path, err);
    if (r == 0)
        printf("%s: the default pipeline; write your model, output and texts into it, then: quantpipe run %s\n", path,
               path);
    return r;
}

const struct qp_subcommand qp_subcommand_init = {
    .name = "init",
    .summary = "write the default pipeline to a file (pipeline.yaml), or the skeleton of a stage, to be changed",
    .usage = "[FILE] | stage NAME",
    .max_arguments = 2,
    .options = {language_option},
    .run = init,
};
