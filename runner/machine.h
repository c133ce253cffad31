/* What this machine gives the processes on it, less where a container gives less. */
#ifndef QUANTPIPE_RUNNER_MACHINE_H
#define QUANTPIPE_RUNNER_MACHINE_H

#include <stdint.h>

int qp_machine_cores(void);
uint64_t qp_machine_memory(void);

#endif
