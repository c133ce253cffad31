/* Child processes: started without a shell, in a process group of their own, gone when the runner is gone. */
#ifndef QUANTPIPE_RUNNER_PROCESS_H
#define QUANTPIPE_RUNNER_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "libstage/base/error.h"

/* Descriptors that a process gets; in: -1 for /dev/null. */
struct qp_stdio {
    int in, out, errors;
};

/* Starts argv[0] (a path) in `folder` (NULL: this one). Signals are at their defaults there, and SIGTERM comes when the
 * runner dies. */
int qp_process_start(char *const *argv, const char *folder, const struct qp_stdio *stdio, pid_t *pid,
                     struct qp_error *err);

/* A process that was asked something. */
struct qp_question {
    pid_t pid; /* 0: none */
    int out, errors;
};

/* Starts a command with `input` (NULL: nothing) on its stdin. qp_process_answer or qp_process_forget follows, unless it
 * fails. */
int qp_process_ask(char *const *argv, const char *folder, const char *input, struct qp_question *out,
                   struct qp_error *err);

/* What the command writes to stdout until its end, at most `limit` bytes, into *text (new memory, NUL-terminated).
 * QP_ERR_STAGE when it takes longer than `timeout_ms` from now (0: no limit), writes more, dies or exits with anything
 * but 0; the message has the last of its stderr. The question is over. */
int qp_process_answer(struct qp_question *question, int timeout_ms, size_t limit, char **text, struct qp_error *err);

/* Kills what still runs. A zeroed question is accepted. */
void qp_process_forget(struct qp_question *question);

/* Asks without input, and waits for the answer. */
int qp_process_output(char *const *argv, const char *folder, int timeout_ms, size_t limit, char **text,
                      struct qp_error *err);

/* Whether a debugger is attached to a process (TracerPid in /proc/PID/status). */
bool qp_process_is_traced(pid_t pid);

/* "exit code 3", "signal 9 (Killed)" of a wait status, into text; returns it. */
const char *qp_status_text(int status, char *text, size_t size);

/* The last lines of a file, at most `size` - 1 bytes, into text; empty when it cannot be read. Returns it. */
const char *qp_tail(int fd, char *text, size_t size);

#endif
