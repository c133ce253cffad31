#include "runner/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libstage/base/cleanup.h"

/* Between fork and exec: whatever fails is told through `tell` as errno. */
static void become(char *const *argv, const char *folder, const struct qp_stdio *stdio, pid_t parent, int tell)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int in = stdio->in >= 0 ? stdio->in : open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (setpgid(0, 0) == 0 && prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && in >= 0 && dup2(in, 0) == 0 &&
        dup2(stdio->out, 1) == 1 && dup2(stdio->errors, 2) == 2 && (!folder || chdir(folder) == 0)) {
        if (getppid() == parent) /* else it died before the request above */
            execv(argv[0], argv);
    }
    int cause = errno;
    if (write(tell, &cause, sizeof cause) < 0)
        _exit(126);
    _exit(127);
}

int qp_process_start(char *const *argv, const char *folder, const struct qp_stdio *stdio, pid_t *pid,
                     struct qp_error *err)
{
    int tell[2];
    if (pipe2(tell, O_CLOEXEC) < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "%s: cannot make a pipe", argv[0]);
    pid_t parent = getpid();
    *pid = fork();
    if (*pid == 0)
        become(argv, folder, stdio, parent, tell[1]);
    int cause = *pid < 0 ? errno : 0;
    close(tell[1]);
    ssize_t n;
    do
        n = *pid < 0 ? 0 : read(tell[0], &cause, sizeof cause);
    while (n < 0 && errno == EINTR);
    close(tell[0]);
    if (n > 0)
        waitpid(*pid, NULL, 0);
    errno = cause;
    return cause ? qp_fail_errno(err, QP_ERR_INPUT, "%s: cannot be started", argv[0]) : 0;
}

bool qp_process_is_traced(pid_t pid)
{
    char path[64], line[256];
    int tracer = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "TracerPid: %d", &tracer) != 1)
        ;
    if (file)
        fclose(file);
    return tracer > 0;
}

const char *qp_status_text(int status, char *text, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(text, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(text, size, "exit code %d", WEXITSTATUS(status));
    return text;
}

const char *qp_tail(int fd, char *text, size_t size)
{
    struct stat st;
    text[0] = '\0';
    if (fd < 0 || fstat(fd, &st) < 0)
        return text;
    off_t start = st.st_size >= (off_t)size ? st.st_size - (off_t)size + 1 : 0;
    ssize_t n = pread(fd, text, size - 1, start);
    text[n > 0 ? n : 0] = '\0';
    while (n > 0 && text[n - 1] == '\n')
        text[--n] = '\0';
    char *line = start > 0 ? strchr(text, '\n') : NULL;
    return line ? line + 1 : text;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads `fd` to its end into text[limit + 1]; *size is what came. */
static int collect(int fd, int64_t deadline, size_t limit, char *text, size_t *size, struct qp_error *err)
{
    for (*size = 0;;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - now_ms();
        int ready = left > 0 ? poll(&wait, 1, left < INT_MAX ? (int)left : INT_MAX) : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return qp_fail(err, QP_ERR_STAGE, "did not answer in time");
        ssize_t n = read(fd, text + *size, limit + 1 - *size);
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return qp_fail_errno(err, QP_ERR_STAGE, "cannot read what it writes");
        *size += n > 0 ? (size_t)n : 0;
        if (*size > limit)
            return qp_fail(err, QP_ERR_STAGE, "wrote more than %zu bytes", limit);
    }
}

/* Waits for the end until the deadline, then kills. */
static int reap(pid_t pid, int64_t deadline)
{
    int status = 0;
    pid_t r;
    while ((r = waitpid(pid, &status, WNOHANG)) == 0 && now_ms() < deadline)
        usleep(1000);
    if (r == 0) {
        kill(-pid, SIGKILL);
        waitpid(pid, &status, 0);
    }
    return status;
}

/* ---- questions ---- */

/* A file in memory with a text, to be read from its start; -1 without memory. */
static int file_of(const char *name, const char *text)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    size_t left = strlen(text);
    for (ssize_t n; fd >= 0 && left > 0; left -= (size_t)n, text += n)
        if ((n = write(fd, text, left)) <= 0) {
            close(fd);
            return -1;
        }
    if (fd >= 0)
        lseek(fd, 0, SEEK_SET);
    return fd;
}

static void close_question(struct qp_question *question)
{
    qp_cleanup_close(&question->out);
    qp_cleanup_close(&question->errors);
    *question = (struct qp_question){.out = -1, .errors = -1};
}

static int start_question(char *const *argv, const char *folder, const char *input, struct qp_question *out,
                          struct qp_error *err)
{
    int pipe[2];
    qp_auto_close int in = input ? file_of("stdin", input) : -1;
    if (out->errors < 0 || (input && in < 0))
        return qp_fail_memory(err, input ? strlen(input) : 0, argv[0]);
    if (pipe2(pipe, O_CLOEXEC) < 0)
        return qp_fail_errno(err, QP_ERR_STAGE, "cannot make a pipe");
    struct qp_stdio stdio = {in, pipe[1], out->errors};
    out->out = pipe[0];
    int r = qp_process_start(argv, folder, &stdio, &out->pid, err);
    close(pipe[1]);
    return r;
}

int qp_process_ask(char *const *argv, const char *folder, const char *input, struct qp_question *out,
                   struct qp_error *err)
{
    *out = (struct qp_question){.out = -1, .errors = memfd_create("stderr", MFD_CLOEXEC)};
    int r = start_question(argv, folder, input, out, err);
    if (r < 0)
        close_question(out);
    return r;
}

void qp_process_forget(struct qp_question *question)
{
    if (question->pid <= 0)
        return;
    reap(question->pid, 0);
    close_question(question);
}

static int answer(const struct qp_question *question, int64_t deadline, size_t limit, char *text, struct qp_error *err)
{
    char why[64], tail[512];
    size_t size = 0;
    int r = collect(question->out, deadline, limit, text, &size, err);
    int status = reap(question->pid, r < 0 ? 0 : deadline);
    if (r == 0 && status != 0)
        r = qp_fail(err, QP_ERR_STAGE, "ended with %s", qp_status_text(status, why, sizeof why));
    text[r == 0 ? size : 0] = '\0';
    const char *last = r < 0 ? qp_tail(question->errors, tail, sizeof tail) : "";
    return r < 0 ? qp_fail(err, r, "%s%s%s", err ? err->message : "", *last ? "; it said: " : "", last) : 0;
}

int qp_process_answer(struct qp_question *question, int timeout_ms, size_t limit, char **text, struct qp_error *err)
{
    int64_t deadline = timeout_ms > 0 ? now_ms() + timeout_ms : INT64_MAX;
    *text = malloc(limit + 2);
    int r = *text ? answer(question, deadline, limit, *text, err) : qp_fail_memory(err, limit, "an answer");
    if (r < 0) {
        free(*text);
        *text = NULL;
    }
    close_question(question);
    return r;
}

int qp_process_output(char *const *argv, const char *folder, int timeout_ms, size_t limit, char **text,
                      struct qp_error *err)
{
    struct qp_question question;
    int r = qp_process_ask(argv, folder, NULL, &question, err);
    return r < 0 ? r : qp_process_answer(&question, timeout_ms, limit, text, err);
}
