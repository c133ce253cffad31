/* Every time limit and interval of runs, in one place. What a user may set is QP_TIMEOUT alone: `--timeout`. */
#ifndef QUANTPIPE_WIRE_TIMES_H
#define QUANTPIPE_WIRE_TIMES_H

/* The runner gives a stage up that has not said hello after so long, that sends no heartbeat for so long, or whose
 * `--describe` takes so long; a run in which nothing moves and nobody computes for so long ends. Never while a debugger
 * is attached to a stage. The default of --timeout; 0: no limit. */
#define QP_TIMEOUT_SECONDS 60

/* A stage that nobody has started with this variable (seconds, 0: no limit) waits so long for its config: a runner that
 * refuses it is silent. quantpipe sets 0, because it watches its stages and they end with it. */
#define QP_CONFIG_VARIABLE "QUANTPIPE_TIMEOUT"
#define QP_CONFIG_SECONDS 60
#define QP_BYE_SECONDS 60 /* after `done` a stage ends anyway */

/* A stage's heartbeat on the control channel, which goes on while it computes, and how often it samples its memory: a
 * look takes some 30 microseconds, and what a stage holds for less than the first of these is not seen. */
#define QP_HEARTBEAT_SECONDS 1.0
#define QP_BUSY_SAMPLE_MS 20 /* while it works on a unit */
#define QP_SAMPLE_MS 200

/* A stage that is asked to end, by `stop` or by SIGTERM (which comes when its runner dies), and that has not done so
 * after this many seconds, in the middle of a long operation, is ended by the thread that serves its sockets. */
#define QP_STOP_SECONDS 0.7
#define QP_SEND_US 50000 /* that it gives its last message to leave */

/* How a run ends: `stop`, then SIGTERM, then SIGKILL, in seconds from the first. */
#define QP_TERM_SECONDS 3.0
#define QP_KILL_SECONDS 6.0
#define QP_LAST_MESSAGES_SECONDS 0.5 /* after a stage's process has ended its last message may still arrive */
#define QP_TICK_MS 100               /* the runner looks at everything at least so often */
#define QP_READER_SECONDS 1.0 /* once a run is being stopped, who reads its progress has so long to take a line */

/* Of a socket: for the last messages when it is closed; for a peer that connects and sends nothing; and, between hosts,
 * to find that the other one is gone. On one host the kernel closes a dead process's socket, and a process that a
 * debugger has stopped is not dead. */
#define QP_LINGER_MS 2000
#define QP_HANDSHAKE_MS 30000
#define QP_TCP_HEARTBEAT_MS 5000
#define QP_TCP_LOST_MS 30000

#endif
