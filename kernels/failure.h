/* What went wrong inside operations. Most of them have no return value, and parts of them run on several threads, so a
 * failure is kept here: the operation, and each that is called after it, returns without finishing, what it should have
 * written is undefined (and safe to read), and whoever passes results on - a stage that emits a unit, an evaluation
 * that ends - asks first. */
#ifndef QUANTPIPE_KERNELS_FAILURE_H
#define QUANTPIPE_KERNELS_FAILURE_H

#include <stdbool.h>
#include <stddef.h>

enum qp_failure {
    QP_FAILURE_NONE,
    QP_FAILURE_MEMORY,  /* there was not enough */
    QP_FAILURE_LIBRARY, /* oneDNN or OpenBLAS cannot be used, or refused what was asked of it */
    QP_FAILURE_STOPPED, /* none: the process is asked to end; never forgotten */
};

/* Keeps a failure of this process; the first one stays. Thread-safe, allocates nothing. */
void qp_failure_set(enum qp_failure kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether there was a failure since the last qp_failure_take; costs nothing, so that long loops ask in each round. */
bool qp_failure_is_set(void);

/* The first failure since the last qp_failure_take, with its message of at most `size` bytes; the second one forgets
 * it. */
enum qp_failure qp_failure_look(char *message, size_t size);
enum qp_failure qp_failure_take(char *message, size_t size);

#endif
