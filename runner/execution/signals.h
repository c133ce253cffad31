/* The signals of a run: blocked, and asked for where the runner waits, so that nothing cuts its cleaning up short. */
#ifndef QUANTPIPE_RUNNER_EXECUTION_SIGNALS_H
#define QUANTPIPE_RUNNER_EXECUTION_SIGNALS_H

#include <stdbool.h>

/* From here on SIGINT, SIGTERM, SIGHUP and SIGCHLD wait for qp_signals_take, and a reader of ours that goes away is an
 * error of a write. */
void qp_signals_block(void);

/* Drops what waits and gives the signals their usual effect back. */
void qp_signals_release(void);

/* A signal that waits, taken; 0: none. Does not wait. */
int qp_signals_take(void);

/* Whether one waits that asks for an end: SIGINT, SIGTERM or SIGHUP. Takes nothing. */
bool qp_signals_stop_waits(void);

/* A descriptor that is readable while a signal waits, to be closed; -1 where there is none to be had: who polls it then
 * asks qp_signals_take at intervals. Only polled, never read. */
int qp_signals_descriptor(void);

#endif
