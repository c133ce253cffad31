/* Child processes: started without a shell, in a process group of their own, gone when the runner is gone. */
#ifndef QUANTPIPE_RUNNER_PROCESS_H
#define QUANTPIPE_RUNNER_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "libstage/base/error.h"

/* Starts argv[0] (a path) with stdin from /dev/null and stdout and stderr to these descriptors, in `folder` (NULL: this
 * one). Signals are at their defaults there, and SIGTERM comes when the runner dies. */
int qp_process_start(char *const *argv, const char *folder, int out, int errors, pid_t *pid, struct qp_error *err);

/* Runs a command to its end: its stdout, at most `limit` bytes, into *text (new memory, NUL-terminated). QP_ERR_STAGE
 * when it takes longer than `timeout_ms` (0: no limit), writes more, dies or exits with anything but 0; the message has
 * the last of its stderr. */
int qp_process_output(char *const *argv, const char *folder, int timeout_ms, size_t limit, char **text,
                      struct qp_error *err);

/* Whether a debugger is attached to a process (TracerPid in /proc/PID/status). */
bool qp_process_is_traced(pid_t pid);

/* "exit code 3", "signal 9 (Killed)" of a wait status, into text; returns it. */
const char *qp_status_text(int status, char *text, size_t size);

/* The last lines of a file, at most `size` - 1 bytes, into text; empty when it cannot be read. Returns it. */
const char *qp_tail(int fd, char *text, size_t size);

#endif
