/* `quantpipe init` */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"
#include "libstage/base/file.h"
#include "runner/pipeline/default.h"
#include "runner/subcommand.h"

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
    const char *path = args->argument_count ? args->arguments[0] : QP_PIPELINE_FILE;
    int r = write_pipeline(path, err);
    if (r == 0)
        printf("%s: the default pipeline; write your model, output and texts into it, then: quantpipe run %s\n", path,
               path);
    return r;
}

const struct qp_subcommand qp_subcommand_init = {
    .name = "init",
    .summary = "write the default pipeline to a file (pipeline.yaml), to be changed",
    .usage = "[FILE]",
    .max_arguments = 1,
    .options = {NULL},
    .run = init,
};
