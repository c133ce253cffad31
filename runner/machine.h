/* What this machine gives the processes on it, less where a container gives less. */
#ifndef QUANTPIPE_RUNNER_MACHINE_H
#define QUANTPIPE_RUNNER_MACHINE_H

#include <stddef.h>
#include <stdint.h>

int qp_machine_cores(void);
uint64_t qp_machine_memory(void);
uint64_t qp_machine_available(void); /* of that, what is not in use */

/* What the processor calls itself, "unknown processor" where it has no name. Into text; returns it. */
const char *qp_machine_cpu(char *text, size_t size);

/* CLOCK_MONOTONIC in seconds. */
double qp_now(void);

#endif
