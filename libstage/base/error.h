/* Errors are values: a function that can fail takes a `struct qp_error *` last and returns 0 or a negative code.
 * The function that detects an error describes it once (what, where, what to do); callers add context or pass it on.
 * Nothing below the programs' main() prints an error. */
#ifndef QUANTPIPE_BASE_ERROR_H
#define QUANTPIPE_BASE_ERROR_H

#include <stdarg.h>

/* The codes are the negated exit codes of the programs. */
enum qp_code {
    QP_OK = 0,
    QP_ERR_USAGE = -2,         /* command line */
    QP_ERR_INPUT = -3,         /* pipeline, model or data */
    QP_ERR_STAGE = -4,         /* a stage failed, or a peer broke the protocol */
    QP_ERR_GATE = -5,          /* a quality gate failed */
    QP_ERR_SPACE = -6,         /* no disk or memory */
    QP_ERR_INTERRUPTED = -130, /* SIGINT, SIGTERM or a cancelled run */
};

#define QP_ERROR_SIZE 2048

struct qp_error {
    int code; /* 0 or an enum qp_code */
    char message[QP_ERROR_SIZE];
};

/* Describes an error and returns `code`. `err` may be NULL. Arguments may point into err->message. The message is UTF-8
 * whatever bytes the arguments hold (libstage/base/utf8.h). */
int qp_fail(struct qp_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
int qp_vfail(struct qp_error *err, int code, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

/* Describes a failed system call: "FORMAT: strerror(errno)"; ENOSPC, EDQUOT, EFBIG and ENOMEM give QP_ERR_SPACE
 * with what to do, anything else gives `code`. Reads errno first. */
int qp_fail_errno(struct qp_error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "FORMAT: " before the message of an error that is already described; returns err->code. */
int qp_wrap(struct qp_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Describes an allocation that failed: QP_ERR_SPACE, with the size and what it was for. */
int qp_fail_memory(struct qp_error *err, unsigned long long bytes, const char *what);

#endif
