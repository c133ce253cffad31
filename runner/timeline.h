/* timeline.json of a run folder: which stage worked on which unit when, and with how many threads, in the trace format
 * of Chrome (chrome://tracing, ui.perfetto.dev). Times are microseconds since the start of the run. */
#ifndef QUANTPIPE_RUNNER_TIMELINE_H
#define QUANTPIPE_RUNNER_TIMELINE_H

struct qp_child;
struct qp_supervisor;

/* What a stage has been at until now, if anything, is over. */
void qp_timeline_note(const struct qp_supervisor *s, struct qp_child *child);

/* A run without a timeline is as good: it says nothing when it cannot. */
void qp_timeline_write(const struct qp_supervisor *s);

#endif
